#pragma once

#include <chrono>

namespace xmoe {

// Seconds of a monotonic clock since construction or the last restart.
class Timer {
 public:
  void restart() { start_ = Clock::now(); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace xmoe
