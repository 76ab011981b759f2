// The GPU's half of device.h, free of vendor names.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "device/device.h"

namespace xmoe::gpu {

// What decides whether a GPU can be used. Versions as the runtime counts them: 13000 is 13.0.
struct Facts {
  int driver_version = 0;   // the newest runtime that the driver supports; 0: there is no driver
  int runtime_version = 0;  // of this binary
  int gpus = 0;
  int capability_major = 0, capability_minor = 0;  // of the GPU asked for
  std::string error;  // what the runtime said where it could not count the GPUs for another reason
};

Facts facts(int index);
std::string why_unusable(const Facts& facts, int index);  // empty: it can be used

DeviceMemory memory(const Device& device);
void* allocate(const Device& device, std::size_t bytes, std::string_view purpose);
void free(const Device& device, void* data) noexcept;
void fill(const Device& device, void* data, int byte, std::size_t bytes);
void copy(const Device& from_device, const void* from, const Device& to_device, void* to, std::size_t bytes);
void synchronize(const Device& device);

}  // namespace xmoe::gpu
