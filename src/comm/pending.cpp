#include "comm/pending.h"

#include <fmt/core.h>

#include <deque>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/profile.h"
#include "comm/communicator.h"

namespace xmoe {

namespace {

// Held for some nanoseconds, beside which a collective is long. A watcher that reads under it sees a group's
// name only while the group lives.
std::mutex mutex;
PendingScope::Place current;
std::uint64_t begun = 0;
bool patient = false;

struct Queued {
  std::unique_ptr<QueuedWork> work;
  PendingCollective what;
  std::chrono::steady_clock::time_point since;
  const void* owner;
};

// In the order in which it was queued. A mutex of its own: a question to a device may take a while.
std::mutex queue_mutex;
std::deque<Queued> queue;

// Takes what is done from the front of the queue; the next begins to count then.
void drop_finished() {
  while (!queue.empty() && queue.front().work->finished()) {
    queue.pop_front();
    if (!queue.empty()) queue.front().since = std::chrono::steady_clock::now();
  }
}

std::optional<PendingCollective> queued_collective() {
  const std::lock_guard lock(queue_mutex);
  std::string failure;
  try {
    drop_finished();
  } catch (const Error& error) {
    failure = error.what();
  }
  if (queue.empty()) return std::nullopt;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - queue.front().since;
  PendingCollective pending = queue.front().what;
  pending.seconds = elapsed.count();
  pending.failure = std::move(failure);
  return pending;
}

}  // namespace

PendingScope::PendingScope(const char* operation, const std::string& group) {
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex);
  outer_ = current;
  current = {operation, &group, profile::current_layer(), now, patient, ++begun};
}

PendingScope::~PendingScope() {
  const std::lock_guard lock(mutex);
  current = outer_;
}

std::optional<PendingCollective> pending_collective() {
  {
    const std::lock_guard lock(mutex);
    if (current.operation != nullptr) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - current.since;
      return PendingCollective{current.operation, *current.group,  current.layer,
                               elapsed.count(),   current.patient, current.serial};
    }
  }
  return queued_collective();
}

void watch_queued(std::unique_ptr<QueuedWork> work, const char* operation, const std::string& group,
                  const void* owner) {
  PendingCollective what = {.operation = operation, .group = group, .layer = profile::current_layer()};
  {
    const std::lock_guard lock(mutex);
    what.patient = patient;
    what.serial = ++begun;
  }
  const std::lock_guard lock(queue_mutex);
  drop_finished();
  queue.push_back({std::move(work), std::move(what), std::chrono::steady_clock::now(), owner});
}

void forget_queued(const void* owner) noexcept {
  const std::lock_guard lock(queue_mutex);
  std::erase_if(queue, [owner](const Queued& q) { return q.owner == owner; });
}

PatientScope::PatientScope() {
  const std::lock_guard lock(mutex);
  outer_ = std::exchange(patient, true);
}

PatientScope::~PatientScope() {
  const std::lock_guard lock(mutex);
  patient = outer_;
}

std::string describe(const PendingCollective& pending) {
  std::string text = fmt::format("{} of the group {}", pending.operation, pending.group);
  if (pending.layer >= 0) text += fmt::format(" (layer {})", pending.layer);
  return text;
}

std::string pending_operation() {
  const auto pending = pending_collective();
  return pending ? describe(*pending) : std::string();
}

}  // namespace xmoe
