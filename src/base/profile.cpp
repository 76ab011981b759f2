#include "base/profile.h"

#include <atomic>
#include <chrono>
#include <utility>

namespace xmoe::profile {

namespace {

using Clock = std::chrono::steady_clock;

struct Open {
  Activity activity;
  Clock::time_point since;  // of the part that is not yet counted
  Clock::time_point begin;
};

bool on = false;
std::function<void()> finish_work;
std::atomic<std::int64_t> layer{-1};
std::vector<Open> stack;
std::vector<Seconds> totals;

// Errors of queued work come up where it is waited for otherwise.
void finish_queued() noexcept {
  try {
    if (finish_work) finish_work();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

bool recording = false;
Clock::time_point origin;  // of the events
Events kept;

std::int64_t since_origin(Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time - origin).count();
}

void keep(const Open& open, Clock::time_point end) {
  if (open.begin < origin) return;  // began before the recording: it would stick out of the timeline
  if (kept.events.size() == kept.events.capacity()) {
    ++kept.lost;
    return;
  }
  kept.events.push_back({.begin_ns = since_origin(open.begin),
                         .end_ns = since_origin(end),
                         .layer = static_cast<std::int32_t>(layer.load(std::memory_order_relaxed)),
                         .activity = open.activity});
}

void count(const Open& open, Clock::time_point until) {
  const auto row = static_cast<std::size_t>(layer.load(std::memory_order_relaxed) + 1);
  if (totals.size() <= row) totals.resize(row + 1, Seconds{});
  totals[row][static_cast<std::size_t>(open.activity)] +=
      std::chrono::duration<double>(until - open.since).count();
}

// What goes on belongs to the layer that it went on in.
void enter_layer(std::int64_t index) {
  if (on && !stack.empty()) {
    finish_queued();
    const auto now = Clock::now();
    count(stack.back(), now);
    stack.back().since = now;
  }
  layer.store(index, std::memory_order_relaxed);
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

void finish_with(std::function<void()> finish) { finish_work = std::move(finish); }

Scope::Scope(Activity activity) : active_(on) {
  if (!active_) return;
  finish_queued();
  const auto now = Clock::now();
  if (!stack.empty()) count(stack.back(), now);
  stack.push_back({activity, now, now});
}

Scope::~Scope() {
  if (!active_ || stack.empty()) return;
  finish_queued();
  const auto now = Clock::now();
  count(stack.back(), now);
  if (recording) keep(stack.back(), now);
  stack.pop_back();
  if (!stack.empty()) stack.back().since = now;
}

LayerScope::LayerScope(std::int64_t index) : before_(current_layer()) { enter_layer(index); }
LayerScope::~LayerScope() { enter_layer(before_); }

std::int64_t current_layer() { return layer.load(std::memory_order_relaxed); }

std::vector<Seconds> take() {
  std::vector<Seconds> taken;
  taken.swap(totals);
  return taken;
}

void record_events(std::size_t limit) {
  kept = {};
  kept.events.reserve(limit);
  origin = Clock::now();
  recording = true;
}

Events take_events() {
  recording = false;
  Events taken;
  std::swap(taken, kept);
  return taken;
}

}  // namespace xmoe::profile
