#include "train/device_choice.h"

#include <algorithm>

#include "base/log.h"
#include "device/gpu_built.h"
#include "train/together.h"

namespace xmoe {

Device choose_device(const DeviceConfig& config, Communicator& world) {
  if (config.kind == Device::Kind::cpu) {
    if (gpu_count() > 0 && !kGpuEmulated)
      log::info("device: cpu; this machine has a GPU, which --device cuda uses");
    return {};
  }
  const std::unique_ptr<Communicator> machine = world.split_by_memory("machine");
  const int gpus = gpu_count();
  const int index = config.index ? static_cast<int>(*config.index) : machine->rank() % std::max(1, gpus);
  const Device device{Device::Kind::gpu, index};
  together(world, [&] {
    if (const std::string reason = why_unusable(device); !reason.empty()) fail("--device cuda: {}", reason);
  });
  if (kGpuEmulated)
    log::warning("device: an emulated GPU, whose kernels the CPU runs one thread at a time: for tests");
  const bool shared = config.index ? machine->size() > 1 : machine->size() > gpus;
  if (shared)
    log::warning("{} ranks share {} GPU{}: right, but slow; start one rank per GPU", machine->size(),
                 config.index ? 1 : gpus, config.index || gpus == 1 ? "" : "s");
  return device;
}

}  // namespace xmoe
