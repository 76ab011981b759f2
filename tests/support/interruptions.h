// Signals that interrupt a thread's system calls, as those that end a training do.
#pragma once

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

namespace xmoe {

// Signals the thread that makes it, from another one, which then does `afterwards`: what the calling thread
// waits for. Joined at the end.
class Interruptions {
 public:
  explicit Interruptions(std::function<void()> afterwards) {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = 0;  // without SA_RESTART
    sigaction(SIGUSR1, &action, &before_);
    signaller_ = std::thread([target = pthread_self(), afterwards = std::move(afterwards)] {
      constexpr int kSignals = 20;  // some of them when the call is under way
      for (int i = 0; i < kSignals; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        pthread_kill(target, SIGUSR1);
      }
      afterwards();
    });
  }
  ~Interruptions() {
    signaller_.join();
    sigaction(SIGUSR1, &before_, nullptr);
  }
  Interruptions(const Interruptions&) = delete;
  Interruptions& operator=(const Interruptions&) = delete;

 private:
  struct sigaction before_ {};
  std::thread signaller_;
};

}  // namespace xmoe
