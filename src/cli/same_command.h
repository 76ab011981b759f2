// Ranks that were started with different arguments would wait for each other, or print the help beside a
// training: found out before anything is parsed.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace xmoe {

// Throws Error on all ranks when some have other arguments than rank 0, naming the ranks and what differs.
void expect_same_command(Communicator& world, const std::vector<std::string>& arguments);

// What the first has and the second lacks, flags with the values behind them; "nothing" if there is none.
std::string arguments_without(const std::vector<std::string>& arguments,
                              const std::vector<std::string>& others);

}  // namespace xmoe
