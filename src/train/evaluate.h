// Loss, perplexity and bits per byte of a checkpoint on a data set, behind `xmoe eval`.
#pragma once

#include "comm/communicator.h"
#include "train/config.h"

namespace xmoe {

// Rank 0 prints the result on standard output and writes config.output. Throws Error.
void run_evaluation(const EvalConfig& config, Communicator& world);

}  // namespace xmoe
