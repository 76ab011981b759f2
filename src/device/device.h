// Where memory lives and where an op runs. An op has one implementation per device; asking for one that is
// not built throws, never falls back in silence.
//
// A GPU has one stream: ops, fills and copies within it are queued there and run in order, so that what one
// op writes the next may read, and workspace that was given back may be handed out again at once. The host
// waits for a GPU only in copies from it and in synchronize().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace xmoe {

struct Device {
  enum class Kind : std::uint8_t { cpu, gpu };
  Kind kind = Kind::cpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::cpu; }
  bool operator==(const Device&) const = default;
};

std::string name_of(const Device& device);  // "cpu", "gpu:0"

int gpu_count();  // that this binary can see on this machine; 0 without the GPU's half

// Why this binary cannot use the device on this machine, for the user; empty when it can.
std::string why_unusable(const Device& device);

struct DeviceMemory {
  std::size_t total = 0;
  std::size_t free = 0;  // now; of the host all of it, since what files take there is given back on demand
};
DeviceMemory device_memory(const Device& device);

// Raw memory of a device, aligned for its widest loads. Throws Error when there is none left; `purpose` says
// in that message what it was for.
void* device_allocate(const Device& device, std::size_t bytes, std::string_view purpose = {});
void device_free(const Device& device, void* data) noexcept;

void device_fill(const Device& device, void* data, int byte, std::size_t bytes);
// Between any two devices, behind what was queued there. To the host the copy is complete on return; from the
// host `from` may be overwritten on return, and the host waits for nothing. One thread of the host copies to
// or from a device: both ways go through pinned memory of the device's.
void device_copy(const Device& from_device, const void* from, const Device& to_device, void* to,
                 std::size_t bytes);

// Waits until all that was queued on the device is done, and throws what kernels found wrong in their
// arguments.
void synchronize(const Device& device);

// How often the host has waited for a GPU in this process: each time the GPU may run dry.
std::int64_t host_waits();

[[noreturn]] void fail_not_built(const char* op, const Device& device);

}  // namespace xmoe
