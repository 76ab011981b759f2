#include "base/profile.h"

#include <atomic>
#include <chrono>

namespace xmoe::profile {

namespace {

using Clock = std::chrono::steady_clock;

struct Open {
  Activity activity;
  Clock::time_point since;  // of the part that is not yet counted
};

bool on = false;
std::atomic<std::int64_t> layer{-1};
std::vector<Open> stack;
std::vector<Seconds> totals;

void count(const Open& open, Clock::time_point until) {
  const auto row = static_cast<std::size_t>(layer.load(std::memory_order_relaxed) + 1);
  if (totals.size() <= row) totals.resize(row + 1, Seconds{});
  totals[row][static_cast<std::size_t>(open.activity)] +=
      std::chrono::duration<double>(until - open.since).count();
}

}  // namespace

std::string_view name_of(Activity activity) {
  constexpr std::array<std::string_view, kActivities> kNames = {
      "embedding",   "attention", "dense",   "gating",          "pft",  "gather",    "between-nodes",
      "within-node", "experts",   "combine", "tensor-parallel", "loss", "reduction", "optimizer",
      "waiting",     "other"};
  return kNames[static_cast<std::size_t>(activity)];
}

void enable(bool value) {
  on = value;
  stack.clear();
  totals.clear();
}

bool enabled() { return on; }

Scope::Scope(Activity activity) : active_(on) {
  if (!active_) return;
  const auto now = Clock::now();
  if (!stack.empty()) count(stack.back(), now);
  stack.push_back({activity, now});
}

Scope::~Scope() {
  if (!active_ || stack.empty()) return;
  const auto now = Clock::now();
  count(stack.back(), now);
  stack.pop_back();
  if (!stack.empty()) stack.back().since = now;
}

LayerScope::LayerScope(std::int64_t index) : before_(layer.exchange(index, std::memory_order_relaxed)) {}
LayerScope::~LayerScope() { layer.store(before_, std::memory_order_relaxed); }

std::int64_t current_layer() { return layer.load(std::memory_order_relaxed); }

std::vector<Seconds> take() {
  std::vector<Seconds> taken;
  taken.swap(totals);
  return taken;
}

}  // namespace xmoe::profile
