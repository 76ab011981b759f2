#include "support/devices.h"

#include "device/gpu_built.h"

namespace xmoe {

std::vector<Device> built_gpus() {
  if constexpr (kGpuBuilt) return {{Device::Kind::gpu, 0}};
  return {};
}

std::vector<Device> built_devices() {
  std::vector<Device> devices = built_gpus();
  devices.insert(devices.begin(), Device{});
  return devices;
}

}  // namespace xmoe
