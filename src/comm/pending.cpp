#include "comm/pending.h"

#include <fmt/core.h>

#include <mutex>
#include <utility>

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
  const std::lock_guard lock(mutex);
  if (current.operation == nullptr) return std::nullopt;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - current.since;
  return PendingCollective{current.operation, *current.group,  current.layer,
                           elapsed.count(),   current.patient, current.serial};
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
