// The collective that this process is in at the moment, or that it has queued on a device, for those who
// watch over it from another thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace xmoe {

struct PendingCollective {
  std::string operation;     // "all_to_all_v"; waiting for a transfer: what was started, "exchange"
  std::string group;         // its name
  std::int64_t layer = -1;   // profile::current_layer() when it began; -1 for none
  double seconds = 0;        // since it began; queued on a device: since what was queued before it was done
  bool patient = false;      // within a PatientScope
  std::uint64_t serial = 0;  // counts the collectives of this process: tells one from the next
  std::string failure = {};  // why it will never end, if that is known
};

// "all_to_all_v of the group ep (layer 3)"
std::string describe(const PendingCollective& pending);

// Nothing when the process is in no collective and none is left on a device. Callable from any thread.
std::optional<PendingCollective> pending_collective();

// What a backend opens around the time in which it waits for other ranks; they nest. One thread opens them.
class PendingScope {
 public:
  PendingScope(const char* operation, const std::string& group);  // a literal; a name that outlives this
  ~PendingScope();
  PendingScope(const PendingScope&) = delete;
  PendingScope& operator=(const PendingScope&) = delete;

  struct Place {
    const char* operation = nullptr;
    const std::string* group = nullptr;
    std::int64_t layer = -1;
    std::chrono::steady_clock::time_point since;
    bool patient = false;
    std::uint64_t serial = 0;
  };

 private:
  Place outer_;
};

// A collective that is queued on a device: the host went on, and nobody waits for it in a call.
class QueuedWork {
 public:
  virtual ~QueuedWork() = default;
  // Asked from any thread, one at a time. Throws Error when the work will never be done.
  virtual bool finished() = 0;
};

// Has pending_collective() tell of the work until it is finished. Throws the Error of earlier work that will
// never be done. `owner` tells whose it is.
void watch_queued(std::unique_ptr<QueuedWork> work, const char* operation, const std::string& group,
                  const void* owner);
void forget_queued(const void* owner) noexcept;  // all work of the owner

// Around work of other ranks that takes as long as it takes, such as writing files: no limit of time is set
// to the collectives in it. That a rank has died is noticed all the same.
class PatientScope {
 public:
  PatientScope();
  ~PatientScope();
  PatientScope(const PatientScope&) = delete;
  PatientScope& operator=(const PatientScope&) = delete;

 private:
  bool outer_;
};

}  // namespace xmoe
