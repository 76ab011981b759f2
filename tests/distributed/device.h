// The device that the tests of dispatchers and of the MoE layer run on: the CPU, or with XMOE_TEST_DEVICE=gpu
// a GPU. Ranks take the GPUs of their machine in turns.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "device/device.h"
#include "distributed/support.h"

namespace xmoe::distributed {

inline Device test_device() {
  const char* asked = std::getenv("XMOE_TEST_DEVICE");
  if (asked == nullptr || std::string_view(asked) != "gpu") return {};
  return {Device::Kind::gpu, world().rank() % std::max(1, gpu_count())};
}

}  // namespace xmoe::distributed
