#include "comm/tcp_rendezvous.h"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "base/error.h"
#include "comm/tcp_backend.h"

namespace xmoe::tcp {
namespace {

Environment environment(std::map<std::string, std::string> changed) {
  std::map<std::string, std::string> all = {
      {"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "there"}, {"MASTER_PORT", "29500"}};
  for (auto& [name, value] : changed) all[name] = value;
  return [all](const char* name) {
    const auto found = all.find(name);
    return found == all.end() ? std::string() : found->second;
  };
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Launch, IsReadFromTheEnvironment) {
  EXPECT_TRUE(launched(environment({})));
  EXPECT_FALSE(launched(environment({{"RANK", ""}})));
  const Launch launch = read_launch(environment({}));
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.world_size, 2);
  EXPECT_EQ(launch.master, "there");
  EXPECT_EQ(launch.port, 29500);
  // torchrun's own store has the port.
  EXPECT_EQ(read_launch(environment({{"TORCHELASTIC_USE_AGENT_STORE", "True"}})).port, 29501);
  EXPECT_NE(read_launch(environment({{"TORCHELASTIC_RESTART_COUNT", "1"}})).job, launch.job);
}

TEST(Launch, RefusesWhatMakesNoSense) {
  const auto error = [](const char* name, const char* value) {
    return error_of([&] { read_launch(environment({{name, value}})); });
  };
  EXPECT_TRUE(contains(error("RANK", "2"), "RANK is '2': expected a number from 0 to 1"));
  EXPECT_TRUE(contains(error("RANK", "1x"), "RANK is '1x'"));
  EXPECT_TRUE(contains(error("WORLD_SIZE", "0"), "WORLD_SIZE is '0'"));
  EXPECT_TRUE(contains(error("MASTER_ADDR", ""), "MASTER_ADDR is not set"));
  EXPECT_TRUE(contains(error("MASTER_PORT", "70000"), "MASTER_PORT is '70000'"));
}

// A port that was free a moment ago, with the ports behind it very likely free.
int some_port() { return port_of(listen_on(0)); }

Launch launch_of(int rank, int world_size, int port) {
  return {.rank = rank,
          .world_size = world_size,
          .master = "localhost",
          .port = port,
          .job = "test",
          .patience = 20};
}

// The error of each, run at once; empty: it succeeded.
std::vector<std::string> errors_of(const std::vector<Launch>& launches) {
  std::vector<std::string> errors(launches.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < launches.size(); ++i)
    threads.emplace_back([&, i] { errors[i] = error_of([&] { rendezvous(launches[i]); }); });
  for (std::thread& t : threads) t.join();
  return errors;
}

TEST(Rendezvous, ConnectsEveryPair) {
  const int port = some_port();
  std::vector<std::vector<Rank>> found(5);
  std::vector<std::thread> threads;
  for (int r = 0; r < 5; ++r)
    threads.emplace_back([&, r] { found[static_cast<std::size_t>(r)] = rendezvous(launch_of(r, 5, port)); });
  for (std::thread& t : threads) t.join();
  const auto soon = Clock::now() + std::chrono::seconds(10);
  for (std::size_t a = 0; a < 5; ++a) {
    ASSERT_EQ(found[a].size(), 5U);
    for (std::size_t b = 0; b < 5; ++b) {
      EXPECT_EQ(found[a][b].memory, found[0][0].memory);
      EXPECT_EQ(static_cast<bool>(found[a][b].socket), a != b);
      if (a == b) continue;
      EXPECT_TRUE(send_text(found[a][b].socket, fmt::format("{} to {}", a, b), soon));
    }
  }
  for (std::size_t a = 0; a < 5; ++a) {
    for (std::size_t b = 0; b < 5; ++b) {
      if (a == b) continue;
      EXPECT_EQ(receive_text(found[a][b].socket, soon), fmt::format("{} to {}", b, a));
    }
  }
}

TEST(Rendezvous, PassesByPortsThatOthersHave) {
  const Socket silent = listen_on(0);  // it takes connections and says nothing
  const int port = port_of(silent);
  Launch other = launch_of(0, 2, port);
  other.job = "another";
  other.patience = 30;
  std::vector<Launch> launches = {other, launch_of(0, 2, port), launch_of(1, 2, port), other};
  launches.back().rank = 1;
  EXPECT_EQ(errors_of(launches), std::vector<std::string>(4));
}

TEST(Rendezvous, NamesWhatKeepsTheRanksApart) {
  const int port = some_port();
  Launch alone = launch_of(0, 3, port);
  alone.patience = 0.3;
  EXPECT_TRUE(contains(errors_of({alone}).front(), "ranks 1, 2 of 3 did not come within 0 s"));
  Launch lost = launch_of(1, 3, port);
  lost.patience = 0.3;
  const std::string unreachable = errors_of({lost}).front();
  EXPECT_TRUE(contains(
      unreachable, fmt::format("rank 1 did not find rank 0 of 3 at MASTER_ADDR localhost, ports {}", port)))
      << unreachable;
  EXPECT_TRUE(contains(unreachable, "Connection refused")) << unreachable;

  const auto twice = errors_of({launch_of(0, 3, port), launch_of(1, 3, port), launch_of(1, 3, port)});
  for (const std::string& e : twice) EXPECT_TRUE(contains(e, "rank 1 was started twice")) << e;

  const auto sizes = errors_of({launch_of(0, 2, port), launch_of(1, 3, port)});
  for (const std::string& e : sizes) EXPECT_TRUE(contains(e, "was started with WORLD_SIZE 3")) << e;
}

TEST(Rendezvous, ASecondRank0IsToldSo) {
  const int port = some_port();
  Launch first = launch_of(0, 2, port);
  first.patience = 5;
  const auto errors = errors_of({first, first});
  for (const std::string& e : errors) EXPECT_TRUE(contains(e, "rank 0 was started twice")) << e;
}

TEST(Links, RanksThatDisagreeAreTold) {
  const int port = some_port();
  std::vector<std::string> errors(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      Links links(r, rendezvous(launch_of(r, 2, port)));
      std::vector<char> bytes(8);
      const Ticket both[] = {links.send(1 - r, 7, bytes.data(), 8),
                             links.receive(1 - r, 7, bytes.data(), r == 0 ? 8 : 4)};
      try {
        links.wait(both);
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(r)] = error.what();
      }
      links.say_goodbye(std::chrono::seconds(5));
    });
  for (std::thread& t : threads) t.join();
  EXPECT_TRUE(contains(errors[1], "rank 0 is in another collective")) << errors[1];
  EXPECT_TRUE(contains(errors[1], "8 bytes came where 4 were expected")) << errors[1];
}

}  // namespace
}  // namespace xmoe::tcp
