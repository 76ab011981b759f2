// Arena: stack-like memory of one device with a tag. Allocation moves a pointer; rewind() gives back all that
// was allocated since a mark. When it runs out it adds a chunk; when it next becomes empty the chunks give
// way to one with a quarter more than the most that was in use, so that after warm-up a training step
// allocates nothing, although the rows that a rank receives differ from step to step, and every byte in use
// has a name.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace xmoe {

enum class MemoryTag : std::uint8_t { parameters, gradients, optimizer, saved, workspace, communication };
inline constexpr std::size_t kMemoryTags = 6;
std::string_view name_of(MemoryTag tag);

// What the arenas of a device that are alive hold from it and have had in use at most, by tag.
struct TagMemory {
  std::size_t reserved = 0;
  std::size_t high_water = 0;
};
std::array<TagMemory, kMemoryTags> memory_by_tag(const Device& device);

class Arena {
 public:
  Arena(Device device, MemoryTag tag);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised memory.
  Tensor tensor(DType dtype, const Shape& shape) {
    return {allocate(bytes_of(dtype, shape)), dtype, shape, device_};
  }
  Tensor zeros(DType dtype, const Shape& shape);
  // Throws Error when the device has no more: what was asked for, what is held by tag, what may help.
  void* allocate(std::size_t bytes);
  // Asks the device now and at once for what is going to be allocated: without it, memory that grows tensor
  // by tensor ends with chunks that are not full. Nothing may be in use.
  void reserve(std::size_t bytes);
  // What a tensor of so many bytes takes.
  static std::size_t aligned(std::size_t bytes);

  struct Mark {
    std::size_t chunk = 0;
    std::size_t offset = 0;
  };
  Mark mark() const { return {current_, offset_}; }
  void rewind(const Mark& mark);
  void clear() { rewind({}); }

  const Device& device() const { return device_; }
  MemoryTag tag() const { return tag_; }
  std::size_t in_use() const;
  std::size_t high_water() const { return high_water_; }  // most bytes in use at once
  std::size_t reserved() const;                           // bytes held from the device
  // How often the device was asked for memory.
  std::int64_t device_allocations() const { return device_allocations_; }

 private:
  struct Chunk {
    std::byte* data;
    std::size_t size;
    std::size_t used;  // at the time the next chunk was begun
  };
  static std::size_t bytes_of(DType dtype, const Shape& shape) {
    return static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  }
  void add_chunk(std::size_t bytes);
  std::size_t slack() const;  // beyond the most so far, for a merged chunk

  Device device_;
  MemoryTag tag_;
  std::vector<Chunk> chunks_;
  std::size_t current_ = 0;
  std::size_t offset_ = 0;
  std::size_t high_water_ = 0;
  std::int64_t device_allocations_ = 0;
};

// Gives back on leaving a scope all that the arena handed out within it.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace xmoe
