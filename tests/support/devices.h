// The devices that this binary is built for, usable on this machine or not.
#pragma once

#include <vector>

#include "device/device.h"

namespace xmoe {

std::vector<Device> built_gpus();
std::vector<Device> built_devices();  // the CPU first

}  // namespace xmoe
