// What a GPU did in a stretch of time: how long it was busy, and with what.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace xmoe {

struct Activity {
  std::uint64_t begin = 0, end = 0;  // ns
  std::string name;
};

struct TimelineEntry {
  std::string name;
  std::int64_t calls = 0;
  std::uint64_t total = 0;  // ns, activities side by side counted each
};

struct Timeline {
  std::uint64_t span = 0;         // ns
  std::uint64_t busy = 0;         // at least one activity ran
  std::uint64_t longest_gap = 0;  // without any
  std::int64_t gaps = 0;
  std::vector<TimelineEntry> entries;  // the longest first

  double idle_share() const {
    return span == 0 ? 0.0 : 1.0 - static_cast<double>(busy) / static_cast<double>(span);
  }
};

// Of the activities that end in [from, to]; what begins before counts from `from` on.
inline Timeline summarise(std::vector<Activity> activities, std::uint64_t from, std::uint64_t to) {
  Timeline t;
  t.span = to - from;
  std::sort(activities.begin(), activities.end(),
            [](const Activity& a, const Activity& b) { return a.begin < b.begin; });
  std::map<std::string, TimelineEntry> by_name;
  std::uint64_t done = from;  // all before is accounted for
  const auto pass_gap = [&](std::uint64_t until) {
    if (until <= done) return;
    ++t.gaps;
    t.longest_gap = std::max(t.longest_gap, until - done);
    done = until;
  };
  for (const Activity& a : activities) {
    if (a.end <= from || a.end > to) continue;
    const std::uint64_t begin = std::max(a.begin, from);
    pass_gap(begin);
    if (a.end > done) {
      t.busy += a.end - done;
      done = a.end;
    }
    TimelineEntry& entry = by_name[a.name];
    ++entry.calls;
    entry.total += a.end - begin;
  }
  pass_gap(to);
  for (auto& [name, entry] : by_name) {
    entry.name = name;
    t.entries.push_back(entry);
  }
  std::stable_sort(t.entries.begin(), t.entries.end(),
                   [](const TimelineEntry& a, const TimelineEntry& b) { return a.total > b.total; });
  return t;
}

}  // namespace xmoe
