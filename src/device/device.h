// Where memory lives and where an op runs. An op has one implementation per device; asking for one that is
// not built throws, never falls back in silence.
#pragma once

#include <cstdint>
#include <string>

namespace xmoe {

struct Device {
  enum class Kind : std::uint8_t { cpu, gpu };
  Kind kind = Kind::cpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::cpu; }
  bool operator==(const Device&) const = default;
};

std::string name_of(const Device& device);  // "cpu", "gpu:0"

// Raw memory of a device, aligned for its widest loads. Throws Error when there is none left.
void* device_allocate(const Device& device, std::size_t bytes);
void device_free(const Device& device, void* data) noexcept;

[[noreturn]] void fail_not_built(const char* op, const Device& device);

}  // namespace xmoe
