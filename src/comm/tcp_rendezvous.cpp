#include "comm/tcp_rendezvous.h"

#include <charconv>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "comm/topology.h"

namespace xmoe::tcp {

namespace {

// Between two rounds of a rank that looks for rank 0.
constexpr std::chrono::milliseconds kRound(50);
// What a stranger gets to say what it wants, and rank 0 to answer, which a stranger may keep busy: all is
// sent at once.
constexpr std::chrono::seconds kStranger(1);
constexpr std::chrono::seconds kAnswer(4);
// Whether there is a listener at a port is known after this, packets that get lost apart.
constexpr std::chrono::seconds kConnect(5);
// Ranks that a message lists before it only counts the rest.
constexpr std::size_t kListed = 16;

// First words of what rank 0 says.
constexpr std::string_view kWelcome = "welcome";
constexpr std::string_view kOtherJob = "other";
constexpr std::string_view kError = "error ";

// What a rank tells rank 0, and what rank 0 tells of it to all.
struct Card {
  std::string job;
  int world_size = 0;
  int rank = 0;
  int port = 0;         // where it listens
  std::string address;  // empty: where rank 0 was reached
  std::string host;
  std::string memory;
};

std::string written(const Card& card) {
  return fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n", card.job, card.world_size, card.rank, card.port,
                     card.address, card.host, card.memory);
}

bool read(std::istream& text, Card& card) {
  std::string number;
  const auto line = [&](auto& value) {
    if (!std::getline(text, number)) return false;
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, int>) {
      const char* end = number.data() + number.size();
      return std::from_chars(number.data(), end, value).ptr == end;
    } else {
      value = number;
      return true;
    }
  };
  return line(card.job) && line(card.world_size) && line(card.rank) && line(card.port) &&
         line(card.address) && line(card.host) && line(card.memory);
}

std::string memory_identity() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  return boot + ' ' + host_name();  // containers on one kernel have names of their own
}

Card own_card(const Launch& launch, int port) {
  return {launch.job, launch.world_size, launch.rank, port, {}, host_name(), memory_identity()};
}

int last_port(const Launch& launch) { return std::min(launch.port + kPorts - 1, 65535); }

std::string ports(const Launch& launch) {
  return fmt::format("{}, ports {} to {}", launch.master, launch.port, last_port(launch));
}

Clock::time_point deadline_of(const Launch& launch) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(launch.patience));
}

// Ranks without a connection.
std::string missing(const std::vector<Rank>& ranks, int own, int from) {
  std::string text;
  std::size_t n = 0;
  for (int r = from; r < static_cast<int>(ranks.size()); ++r) {
    if (r == own || ranks[static_cast<std::size_t>(r)].socket) continue;
    if (n++ < kListed) text += fmt::format("{}{}", text.empty() ? "" : ", ", r);
  }
  if (n > kListed) text += fmt::format(" and {} more", n - kListed);
  return fmt::format("{} {}", n == 1 ? "rank" : "ranks", text);
}

std::string problem_with(const Card& card, const std::vector<Rank>& ranks, const Launch& launch) {
  if (card.world_size != launch.world_size)
    return fmt::format("rank {} on {} was started with WORLD_SIZE {} and rank 0 on {} with {}", card.rank,
                       card.host, card.world_size, host_name(), launch.world_size);
  if (card.rank >= launch.world_size) return fmt::format("rank {} of {}", card.rank, launch.world_size);
  if (card.rank == 0 || ranks[static_cast<std::size_t>(card.rank)].socket)
    return fmt::format("rank {} was started twice, on {} and on {}: every process needs a RANK of its own",
                       card.rank, ranks[static_cast<std::size_t>(card.rank)].host, card.host);
  return {};
}

// A rank's card, and what rank 0 says to it; nothing when it is no rank 0 that is there.
std::optional<std::string> ask(const Socket& socket, const Card& card, std::chrono::seconds limit) {
  if (!send_text(socket, written(card), Clock::now() + kStranger)) return std::nullopt;
  return receive_text(socket, Clock::now() + limit);
}

Socket listen_for_ranks(const Launch& launch) {
  for (int port = launch.port; port <= last_port(launch); ++port) {
    if (Socket socket = listen_on(port)) return socket;
    // By another program, or by a second rank 0 of this job, which takes this one for what it is.
    std::string why;
    const Socket taken = connect_to("localhost", port, Clock::now() + kStranger, why);
    if (!taken) continue;
    const auto answer = ask(taken, own_card(launch, 0), kStranger);
    if (answer && answer->starts_with(kError)) fail("{}", answer->substr(kError.size()));
  }
  fail("none of the ports {} to {} is free on {}: set MASTER_PORT to another one (torchrun: --master-port)",
       launch.port, last_port(launch), host_name());
}

// Rank 0: waits for the others, tells each where all are, and keeps their connections.
void gather(const Launch& launch, std::vector<Rank>& ranks, std::string& token, Clock::time_point deadline) {
  const Socket listener = listen_for_ranks(launch);
  std::vector<Card> cards(ranks.size());
  cards[0] = own_card(launch, 0);
  ranks[0].host = cards[0].host;
  ranks[0].memory = cards[0].memory;
  const auto fail_all = [&](const std::string& problem) {
    for (const Rank& r : ranks)
      if (r.socket) send_text(r.socket, std::string(kError) + problem, Clock::now() + kStranger);
    fail("{}", problem);
  };
  for (std::size_t here = 1; here < ranks.size();) {
    Socket socket = accept_from(listener, deadline);
    if (!socket)
      fail_all(fmt::format("{} of {} did not come within {:.0f} s", missing(ranks, 0, 0), ranks.size(),
                           launch.patience));
    const auto limit = Clock::now() + kStranger;
    const auto text = receive_text(socket, limit);
    Card card;
    std::istringstream stream(text.value_or(""));
    if (!text || !read(stream, card) || card.rank < 0) continue;  // not one of ours
    if (card.job != launch.job) {
      send_text(socket, std::string(kOtherJob), limit);
      continue;
    }
    const bool in_range = card.rank < launch.world_size;
    // One that gave up waiting for an answer comes again.
    if (in_range && ranks[static_cast<std::size_t>(card.rank)].socket &&
        closed_by_peer(ranks[static_cast<std::size_t>(card.rank)].socket)) {
      ranks[static_cast<std::size_t>(card.rank)].socket.close();
      --here;
    }
    if (const std::string problem = problem_with(card, ranks, launch); !problem.empty()) {
      send_text(socket, std::string(kError) + problem, limit);
      fail_all(problem);
    }
    if (!send_text(socket, std::string(kWelcome), limit)) continue;
    card.address = remote_address_of(socket);
    const auto r = static_cast<std::size_t>(card.rank);
    ranks[r] = {card.host, card.memory, std::move(socket)};
    cards[r] = std::move(card);
    ++here;
  }
  // A stranger's connection is told from a rank's by it.
  std::random_device random;
  token = fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  std::string table = token + '\n';
  for (const Card& card : cards) table += written(card);
  for (std::size_t r = 1; r < ranks.size(); ++r)
    if (!send_text(ranks[r].socket, table, deadline))
      fail("rank {} on {} has left while the ranks were coming together", r, ranks[r].host);
}

// Another rank: the connection to rank 0, which knows it then.
Socket find_rank_0(const Launch& launch, const Card& card, Clock::time_point deadline) {
  std::string why = "nothing listens there";
  bool met_another_job = false;
  while (Clock::now() < deadline) {
    for (int port = launch.port; port <= last_port(launch); ++port) {
      Socket socket = connect_to(launch.master, port, std::min(deadline, Clock::now() + kConnect), why);
      if (!socket) continue;
      const auto answer = ask(socket, card, kAnswer);
      if (!answer) continue;
      if (answer->starts_with(kError)) fail("{}", answer->substr(kError.size()));
      if (*answer == kWelcome) return socket;
      met_another_job |= *answer == kOtherJob;
    }
    std::this_thread::sleep_for(kRound);
  }
  fail(
      "rank {} did not find rank 0 of {} at MASTER_ADDR {} within {:.0f} s ({}): is it started there, and "
      "does the network let these ports through?",
      launch.rank, launch.world_size, ports(launch), launch.patience,
      met_another_job ? "another job listens there" : why);
}

// Another rank: learns from rank 0 who is where, and connects with the rest. Of each pair the higher rank
// calls.
void join(const Launch& launch, std::vector<Rank>& ranks, std::string& token, Clock::time_point deadline) {
  const Socket listener = listen_on(0);
  if (!listener) fail("this machine has no free port");
  Socket first = find_rank_0(launch, own_card(launch, port_of(listener)), deadline);
  // Where rank 0 and those on its machine are reached: by the address that has just worked.
  const std::string remote = remote_address_of(first);
  const std::string address = remote.empty() ? launch.master : remote;
  const auto table = receive_text(first, deadline + kAnswer);  // rank 0 itself gives up at the deadline
  if (!table) fail("rank 0 at {} has ended while rank {} waited for the others", ports(launch), launch.rank);
  if (table->starts_with(kError)) fail("{}", table->substr(kError.size()));
  std::istringstream stream(*table);
  std::getline(stream, token);
  std::vector<Card> cards(ranks.size());
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    XMOE_CHECK(read(stream, cards[r]), "rank 0 sent no place of rank {}", r);
    ranks[r].host = cards[r].host;
    ranks[r].memory = cards[r].memory;
  }
  ranks[0].socket = std::move(first);
  const auto greeting = fmt::format("{} {}", token, launch.rank);
  for (int r = 1; r < launch.rank; ++r) {
    const Card& card = cards[static_cast<std::size_t>(r)];
    const std::string& there = card.address.empty() ? address : card.address;
    std::string why = "it does not answer";
    Socket socket = connect_to(there, card.port, deadline, why);
    if (!socket || !send_text(socket, greeting, deadline))
      fail("rank {} on {} cannot connect with rank {} on {} ({} port {}): {}", launch.rank, host_name(), r,
           card.host, there, card.port, why);
    ranks[static_cast<std::size_t>(r)].socket = std::move(socket);
  }
  for (int left = launch.world_size - 1 - launch.rank; left > 0;) {
    Socket socket = accept_from(listener, deadline);
    if (!socket)
      fail("{} of {} did not connect with rank {} within {:.0f} s",
           missing(ranks, launch.rank, launch.rank + 1), launch.world_size, launch.rank, launch.patience);
    const auto text = receive_text(socket, Clock::now() + kStranger);
    std::istringstream words(text.value_or(""));
    std::string its_token;
    int r = 0;
    if (!(words >> its_token >> r) || its_token != token || r <= launch.rank || r >= launch.world_size)
      continue;
    ranks[static_cast<std::size_t>(r)].socket = std::move(socket);
    --left;
  }
}

int number(const Environment& environment, const char* name, int least, int most) {
  const std::string text = environment(name);
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [read_to, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || read_to != end || value < least || value > most)
    fail("{} is '{}': expected a number from {} to {} (torchrun sets it)", name, text, least, most);
  return value;
}

}  // namespace

bool launched(const Environment& environment) {
  return !environment("RANK").empty() && !environment("WORLD_SIZE").empty();
}

Launch read_launch(const Environment& environment) {
  Launch launch;
  launch.world_size = number(environment, "WORLD_SIZE", 1, 1 << 20);
  launch.rank = number(environment, "RANK", 0, launch.world_size - 1);
  if (launch.world_size == 1) return launch;
  launch.master = environment("MASTER_ADDR");
  if (launch.master.empty())
    fail(
        "RANK and WORLD_SIZE say that this process is one of several, but MASTER_ADDR is not set: the host "
        "of rank 0 (torchrun sets it)");
  const int port = number(environment, "MASTER_PORT", 1, 65535 - 1);
  launch.port = environment("TORCHELASTIC_USE_AGENT_STORE") == "True" ? port + 1 : port;
  launch.job = fmt::format("{} {} {}", environment("TORCHELASTIC_RUN_ID"), port,
                           environment("TORCHELASTIC_RESTART_COUNT"));
  return launch;
}

std::vector<Rank> rendezvous(const Launch& launch) {
  const auto deadline = deadline_of(launch);
  std::vector<Rank> ranks(static_cast<std::size_t>(launch.world_size));
  std::string token;
  if (launch.rank == 0) {
    gather(launch, ranks, token, deadline);
  } else {
    join(launch, ranks, token, deadline);
  }
  for (const Rank& r : ranks)
    if (r.socket) prepare_for_messages(r.socket);
  return ranks;
}

}  // namespace xmoe::tcp
