#include <fmt/core.h>

#include "device/device_gpu.h"

namespace xmoe::gpu {

namespace {

// sm_80 brought bf16 arithmetic and asynchronous copies to shared memory, which the kernels are built upon.
constexpr int kLeastMajor = 8;

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

}  // namespace

std::string why_unusable(const Facts& facts, int index) {
  if (facts.driver_version == 0)
    return "this machine has no GPU driver: install it, or run with --device cpu";
  // Minor versions of one runtime work with any driver of the same major version.
  if (facts.driver_version / 1000 < facts.runtime_version / 1000)
    return fmt::format("the GPU driver supports runtime {}, this binary needs {}: update the driver",
                       version(facts.driver_version), version(facts.runtime_version));
  if (!facts.error.empty()) return fmt::format("the GPUs of this machine cannot be used: {}", facts.error);
  if (facts.gpus == 0) return "this machine shows no GPU: see CUDA_VISIBLE_DEVICES, or run with --device cpu";
  if (index < 0 || index >= facts.gpus)
    return fmt::format("there is no gpu:{}: this machine shows {}, counted from 0", index, facts.gpus);
  if (facts.capability_major < kLeastMajor)
    return fmt::format("gpu:{} has compute capability {}.{}, at least {}.0 is needed", index,
                       facts.capability_major, facts.capability_minor, kLeastMajor);
  return {};
}

}  // namespace xmoe::gpu
