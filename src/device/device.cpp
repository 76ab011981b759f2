#include "device/device.h"

#include <cstdlib>

#include "base/error.h"

namespace xmoe {

namespace {
constexpr std::size_t kAlignment = 64;  // a cache line, and the widest CPU vector
}

std::string name_of(const Device& device) {
  return device.is_cpu() ? std::string("cpu") : fmt::format("gpu:{}", device.index);
}

void* device_allocate(const Device& device, std::size_t bytes) {
  if (!device.is_cpu()) fail_not_built("memory allocation", device);
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded);
  if (data == nullptr) fail("out of memory: {} bytes were asked for on {}", bytes, name_of(device));
  return data;
}

void device_free(const Device& device, void* data) noexcept {
  if (device.is_cpu()) std::free(data);
}

void fail_not_built(const char* op, const Device& device) {
  fail("{} is not built for device {}; run with --device cpu, or build the binary for that device", op,
       name_of(device));
}

}  // namespace xmoe
