// What `xmoe train --print-config` prints.
#pragma once

#include <string>
#include <vector>

#include "train/config.h"

namespace xmoe {

// The configuration as a TOML file that --config reads back; sizes of the model, cost and `problems` as
// comments.
std::string config_report(const TrainConfig& resolved, int world_size, const std::vector<Problem>& problems);

}  // namespace xmoe
