// SIGTERM and SIGINT ask for an orderly end: the training finishes its iteration, saves and exits.
#pragma once

#include <string>

namespace xmoe {

// From now on the two signals are only remembered. A second SIGINT ends the process at once, without saving.
void watch_stop_signals();

// "SIGTERM" or "SIGINT".
std::string stop_signal_name(int signal);

// The signal that asked for the end, or 0. Signals reach ranks at different times: ranks must agree before
// they act on it.
int stop_signal();

}  // namespace xmoe
