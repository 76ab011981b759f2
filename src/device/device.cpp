#include "device/device.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "device/device_gpu.h"
#include "device/gpu_built.h"

namespace xmoe {

namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest CPU vector

void* host_allocate(std::size_t bytes, std::string_view purpose) {
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded);
  if (data == nullptr)
    fail("out of memory: {} bytes were asked for on cpu{}{}", bytes, purpose.empty() ? "" : ", for ",
         purpose);
  return data;
}

std::atomic<std::int64_t> waits = 0;

}  // namespace

std::string name_of(const Device& device) {
  return device.is_cpu() ? std::string("cpu") : fmt::format("gpu:{}", device.index);
}

std::string why_unusable(const Device& device) {
  if (device.is_cpu()) return {};
  if constexpr (kGpuBuilt) return gpu::why_unusable(gpu::facts(device.index), device.index);
  return "this binary was built without GPU support: build it with make cuda, or run with --device cpu";
}

int gpu_count() {
  if constexpr (kGpuBuilt) return gpu::facts(0).gpus;
  return 0;
}

DeviceMemory device_memory(const Device& device) {
  if (device.is_cpu()) {
    const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) *
                       static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return {bytes, bytes};
  }
  if constexpr (kGpuBuilt) return gpu::memory(device);
  fail_not_built("device_memory", device);
}

void* device_allocate(const Device& device, std::size_t bytes, std::string_view purpose) {
  if (device.is_cpu()) return host_allocate(bytes, purpose);
  if constexpr (kGpuBuilt) return gpu::allocate(device, bytes, purpose);
  fail_not_built("memory allocation", device);
}

void device_free(const Device& device, void* data) noexcept {
  if (device.is_cpu()) {
    std::free(data);
  } else if constexpr (kGpuBuilt) {
    gpu::free(device, data);
  }
}

void device_fill(const Device& device, void* data, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  if (device.is_cpu()) {
    std::memset(data, byte, bytes);
  } else if constexpr (kGpuBuilt) {
    gpu::fill(device, data, byte, bytes);
  } else {
    fail_not_built("fill", device);
  }
}

void device_copy(const Device& from_device, const void* from, const Device& to_device, void* to,
                 std::size_t bytes) {
  if (bytes == 0) return;
  if (from_device.is_cpu() && to_device.is_cpu()) {
    std::memcpy(to, from, bytes);
  } else if constexpr (kGpuBuilt) {
    if (to_device.is_cpu()) ++waits;
    gpu::copy(from_device, from, to_device, to, bytes);
  } else {
    fail_not_built("copy", from_device.is_cpu() ? to_device : from_device);
  }
}

void synchronize(const Device& device) {
  if constexpr (kGpuBuilt) {
    if (device.is_cpu()) return;
    ++waits;
    gpu::synchronize(device);
  }
}

std::int64_t host_waits() { return waits; }

void fail_not_built(const char* op, const Device& device) {
  fail("{} is not built for device {}; run with --device cpu, or build the binary for that device", op,
       name_of(device));
}

}  // namespace xmoe
