// Text from a checkpoint, behind `xmoe generate`.
#pragma once

#include <iosfwd>

#include "comm/communicator.h"
#include "train/config.h"

namespace xmoe {

// Rank 0 reads the prompt from `input` when the configuration holds none, and writes to `output`; the other
// ranks only compute. Throws Error.
void run_generation(const GenerateConfig& config, Communicator& world, std::istream& input,
                    std::ostream& output);

}  // namespace xmoe
