// The devices that this binary is built for, usable on this machine or not.
#pragma once

#include <vector>

#include "device/device.h"

namespace xmoe {

std::vector<Device> built_gpus();
std::vector<Device> built_devices();  // the CPU first

// A GPU that is emulated on the host: cases made for a real one's speed are cut down or left out there.
bool is_emulated(const Device& device);

}  // namespace xmoe
