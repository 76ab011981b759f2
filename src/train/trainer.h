// The training loop behind `xmoe train`.
#pragma once

#include "comm/communicator.h"
#include "train/config.h"

namespace xmoe {

// Trains from the checkpoint in config.checkpoint.load, or from nothing, until the configured end, an exit
// condition or a signal. `config` is validated and resolved for world.size(). Throws Error.
void run_training(const TrainConfig& config, Communicator& world);

}  // namespace xmoe
