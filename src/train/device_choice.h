// Which device a rank runs on.
#pragma once

#include "comm/communicator.h"
#include "train/config.h"

namespace xmoe {

// The CPU, or a GPU: the one that the configuration names, else the ranks of a machine take them in turn.
// Collective; throws Error on all ranks alike, with the reason of those that cannot use theirs.
Device choose_device(const DeviceConfig& config, Communicator& world);

}  // namespace xmoe
