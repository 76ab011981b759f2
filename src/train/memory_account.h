// Whether a training fits its devices, known before anything is allocated.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "device/arena.h"
#include "train/config.h"

namespace xmoe {

// What a rank needs, by tag.
struct MemoryAccount {
  std::array<std::size_t, kMemoryTags> bytes{};

  std::size_t& of(MemoryTag tag) { return bytes[static_cast<std::size_t>(tag)]; }
  std::size_t of(MemoryTag tag) const { return bytes[static_cast<std::size_t>(tag)]; }
  std::size_t total() const;
};
// Of a resolved configuration that fits the number of ranks. Parameters, gradients and optimizer are exact;
// the rest as plan_memory() (model/memory.h) says.
MemoryAccount plan_training_memory(const TrainConfig& config, int world_size);

// A change of settings that needs less.
struct MemorySaving {
  std::string flags;
  std::size_t bytes = 0;  // saved by this change alone
};
struct MemoryAdvice {
  std::vector<MemorySaving> savings;
  std::string together;  // flags that make it fit; empty: none do
  std::size_t needed = 0;
};
MemoryAdvice advise_memory(const TrainConfig& config, int world_size, std::size_t available);

// For the user: what is needed, what there is, and what to do.
std::string too_large_message(const TrainConfig& config, int world_size, const std::string& device,
                              std::size_t available);

// Collective. Throws Error on all ranks alike, with that message, where a rank's share of its device is less
// than the training needs; else logs a line and returns the account.
MemoryAccount check_memory(const TrainConfig& config, const Device& device, Communicator& world);

// Collective. "peak memory of a rank: parameters 1.2 GB, ...": the most over ranks of what arenas had in use.
std::string peak_memory_line(const Device& device, Communicator& world);

}  // namespace xmoe
