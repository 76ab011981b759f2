// Ranks that were started from different builds of the program: they may disagree in the order of collectives
// or in what they mean, and hang or train nonsense.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace xmoe {

// Collective. Compares the executable files of all ranks (size and hash of the contents); when they differ,
// throws Error on all ranks alike, naming the ranks that differ from the most and their hosts.
void expect_same_program(Communicator& world);

// The ranks whose fingerprint is not the most frequent one (ties: the one of the lowest rank), as "rank 3 on
// b, ranks 5-6 on c"; empty when all are the same. `hosts` are the ranks' host names. For comparisons of
// other things too.
std::string ranks_that_differ(const std::vector<std::string>& fingerprints,
                              const std::vector<std::string>& hosts);

}  // namespace xmoe
