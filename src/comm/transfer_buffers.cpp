#include "comm/transfer_buffers.h"

namespace xmoe {

Arena& TransferBuffers::take(std::size_t bytes) {
  Buffer* best = nullptr;
  for (Buffer& b : buffers_) {
    if (b.taken) continue;
    const auto better = [&](std::size_t size, std::size_t than) {
      return than >= bytes ? size >= bytes && size < than : size > than;
    };
    if (best == nullptr || better(b.arena->reserved(), best->arena->reserved())) best = &b;
  }
  if (best == nullptr) {
    buffers_.push_back({std::make_unique<Arena>(Device{}, MemoryTag::communication), false});
    best = &buffers_.back();
  }
  best->taken = true;
  return *best->arena;
}

void TransferBuffers::give_back(Arena& arena) {
  arena.clear();
  for (Buffer& b : buffers_)
    if (b.arena.get() == &arena) b.taken = false;
}

void TransferBuffers::list(std::vector<const Arena*>& arenas) const {
  for (const Buffer& b : buffers_) arenas.push_back(b.arena.get());
}

}  // namespace xmoe
