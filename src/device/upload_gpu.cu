#include "device/upload_gpu.h"

#include <algorithm>
#include <cstring>

namespace xmoe::gpu {

namespace {

constexpr std::size_t kRing = std::size_t{64} << 20;
// A large copy goes in pieces, so that the GPU fetches one while the host fills the next.
constexpr std::size_t kPiece = std::size_t{16} << 20;
constexpr std::size_t kAlignment = 256;

}  // namespace

EventHandle Uploads::new_event() {
  if (!idle_.empty()) {
    const EventHandle event = idle_.back();
    idle_.pop_back();
    return event;
  }
  EventHandle event = nullptr;
  check(XMOE_GPU_NAME(EventCreateWithFlags)(&event, XMOE_GPU_NAME(EventDisableTiming)), "creating an event");
  return event;
}

// Pieces follow each other around the ring, so that those in the way are the oldest.
void Uploads::make_room(std::size_t begin, std::size_t end) {
  while (!pieces_.empty() && pieces_.front().begin < end && begin < pieces_.front().end) {
    const EventHandle fetched = pieces_.front().fetched;
    check(XMOE_GPU_NAME(EventSynchronize)(fetched), "waiting for a copy to the GPU");
    idle_.push_back(fetched);
    pieces_.pop_front();
  }
}

void Uploads::queue(const void* from, void* to, std::size_t bytes, Stream stream) {
  if (ring_ == nullptr) {
    void* memory = nullptr;
    check(XMOE_GPU_NAME(HostAlloc)(&memory, kRing, XMOE_GPU_NAME(HostAllocDefault)),
          "allocating pinned memory");
    ring_ = static_cast<std::byte*>(memory);
  }
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t size = std::min(bytes - done, kPiece);
    if (next_ + size > kRing) next_ = 0;
    const std::size_t end = next_ + (size + kAlignment - 1) / kAlignment * kAlignment;
    make_room(next_, end);
    std::memcpy(ring_ + next_, static_cast<const std::byte*>(from) + done, size);
    check(XMOE_GPU_NAME(MemcpyAsync)(static_cast<std::byte*>(to) + done, ring_ + next_, size,
                                     XMOE_GPU_NAME(MemcpyHostToDevice), stream),
          "copying memory");
    const EventHandle fetched = new_event();
    check(XMOE_GPU_NAME(EventRecord)(fetched, stream), "recording an event");
    pieces_.push_back({next_, end, fetched});
    next_ = end;
    done += size;
  }
}

}  // namespace xmoe::gpu
