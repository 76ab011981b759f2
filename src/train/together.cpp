#include "train/together.h"

#include <fmt/core.h>

#include <vector>

namespace xmoe {

namespace {

// "0, 3-7"
std::string rank_list(const std::vector<std::size_t>& ranks) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    std::size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", ranks[i]);
    if (last > i) text += fmt::format("-{}", ranks[last]);
    i = last;
  }
  return text;
}

// Messages that are not empty, each with the ranks that have it, in order of their first rank.
using Groups = std::vector<std::pair<std::string, std::vector<std::size_t>>>;

Groups group_ranks(const std::vector<std::string>& messages) {
  Groups groups;
  for (std::size_t rank = 0; rank < messages.size(); ++rank) {
    if (messages[rank].empty()) continue;
    auto same = groups.begin();
    while (same != groups.end() && same->first != messages[rank]) ++same;
    if (same == groups.end()) same = groups.insert(same, {messages[rank], {}});
    same->second.push_back(rank);
  }
  return groups;
}

}  // namespace

void fail_together(Communicator& world, const std::string& message) {
  // One small message when all is well, as it is in every iteration.
  if (world.all_reduce(std::int64_t{message.empty() ? 0 : 1}, ReduceOp::max) == 0) return;
  const Groups groups = group_ranks(world.all_gather_text(message));
  if (groups.size() == 1 && static_cast<int>(groups.front().second.size()) == world.size())
    fail_everywhere("{}", groups.front().first);
  std::string text;
  for (const auto& [what, ranks] : groups)
    text += fmt::format("{}rank {}: {}", text.empty() ? "" : "\n", rank_list(ranks), what);
  fail_everywhere("{}", text);
}

void expect_same(Communicator& world, const std::string& what, const std::string& value,
                 const std::string& remedy) {
  const Groups groups = group_ranks(world.all_gather_text("= " + value));  // an empty value is one, too
  if (groups.size() == 1) return;
  std::string text = what + " must be the same on all ranks:";
  for (const auto& [found, ranks] : groups)
    text += fmt::format("\n  rank {}: {}", rank_list(ranks), found.substr(2));
  fail_everywhere("{}\n{}", text, remedy);
}

std::string message_of(const std::filesystem::filesystem_error& error) {
  std::string paths = error.path1().string();
  if (!error.path2().empty()) paths += " or " + error.path2().string();
  return fmt::format("{}{}{}: choose another place, or change its permissions", paths,
                     paths.empty() ? "" : ": ", error.code().message());
}

}  // namespace xmoe
