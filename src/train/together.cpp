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

}  // namespace

void fail_together(Communicator& world, const std::string& message) {
  const std::vector<std::string> messages = world.all_gather_text(message);
  std::vector<std::pair<std::string, std::vector<std::size_t>>> distinct;
  for (std::size_t rank = 0; rank < messages.size(); ++rank) {
    if (messages[rank].empty()) continue;
    auto same = distinct.begin();
    while (same != distinct.end() && same->first != messages[rank]) ++same;
    if (same == distinct.end()) same = distinct.insert(same, {messages[rank], {}});
    same->second.push_back(rank);
  }
  if (distinct.empty()) return;
  if (distinct.size() == 1 && distinct.front().second.size() == messages.size())
    fail_everywhere("{}", distinct.front().first);
  std::string text;
  for (const auto& [what, ranks] : distinct)
    text += fmt::format("{}rank {}: {}", text.empty() ? "" : "\n", rank_list(ranks), what);
  fail_everywhere("{}", text);
}

}  // namespace xmoe
