#include "train/signals.h"

#include <unistd.h>

#include <csignal>

#include "base/error.h"

namespace xmoe {

namespace {

volatile sig_atomic_t received = 0;

constexpr int kInterruptedExit = 128 + SIGINT;  // what a shell reports for a process ended by SIGINT

// Only what POSIX allows in a handler: flags, write() and _exit().
extern "C" void remember(int signal) {
  if (signal == SIGINT && received == SIGINT) {
    constexpr char kMessage[] = "\nxmoe: interrupted again: exiting without saving\n";
    // The process ends whether or not the terminal is still there to be told.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
    _exit(kInterruptedExit);
  }
  received = signal;
}

}  // namespace

void watch_stop_signals() {
  received = 0;
  struct sigaction action = {};
  action.sa_handler = remember;
  // Not SA_RESTART: a launcher that was told to end reads no output any more, and a line that waits for it
  // must not wait until the launcher kills this process. Writes to files are not interrupted.
  action.sa_flags = 0;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGINT})
    XMOE_CHECK(sigaction(signal, &action, nullptr) == 0, "signal {} cannot be watched", signal);
}

std::string stop_signal_name(int signal) { return signal == SIGINT ? "SIGINT" : "SIGTERM"; }

int stop_signal() { return received; }

}  // namespace xmoe
