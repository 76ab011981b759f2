// Ends a job whose ranks wait for one that does not come. A thread looks ten times a second at the collective
// (or the wait for a transfer) that this process is in, or else at the first one that it has queued on a
// device and that is not done, and says on standard error which rank waits in what, of which group and for
// which layer, when
//   - it lasts longer than a limit: some rank hangs, or left the common order of collectives. The rank that
//     is at fault is the one that does not report. All ranks are ended.
//   - a rank whose process this machine can see has died: launchers need not notice, and a killed rank tells
//     nobody. This process exits.
//   - a collective on a device has failed, which the device's library noticed. This process exits.
//   - this process was asked to stop (SIGTERM, which a launcher sends when another rank has died) and the
//     collective does not end: at first a note, since in an orderly stop slow ranks are waited for as well;
//     after `stop_seconds` this process exits.
// A PatientScope (comm/pending.h) leaves only what has failed or died.
// Exits are by _Exit(1): nothing is flushed or saved, since the thread that communicates is stuck.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/pending.h"

namespace xmoe {

struct WatchdogOptions {
  double limit_seconds = 600;      // for one collective; 0: no limit
  double stop_seconds = 30;        // from being asked to stop, while in one collective
  std::function<bool()> stopping;  // whether this process was asked to stop; may be empty
  // What is done about a collective that lasts too long, on the watchdog's thread; empty: the message is
  // printed and all ranks are ended.
  std::function<void(const std::string&)> on_hang;
};

class Watchdog {
 public:
  // Collective over `world`, which outlives it.
  Watchdog(Communicator& world, WatchdogOptions options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  // A process of another rank that this one can look up.
  struct Neighbour {
    int rank;
    long process;
    std::string started;  // tells it from a later process of the same number
  };

  void watch();
  void look();
  void look_for_the_dead(const PendingCollective& pending) const;
  void after_stop(const PendingCollective& pending);

  WatchdogOptions options_;
  int rank_ = 0;
  std::vector<Neighbour> neighbours_;
  std::optional<std::chrono::steady_clock::time_point> stopped_;  // when a stop was first seen
  bool noted_ = false;
  std::uint64_t reported_ = 0;  // serial of the last collective that was too long

  std::mutex mutex_;
  std::condition_variable changed_;
  bool end_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace xmoe
