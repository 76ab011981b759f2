// The way of host memory to a GPU: through pinned memory, so that the host goes on at once.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "device/gpu.h"

namespace xmoe::gpu {

// Of one device; one thread uses it.
class Uploads {
 public:
  // Queues the copy on `stream`. `from` may be overwritten on return; the host waits only when the ring is
  // full of what the GPU has not fetched yet.
  void queue(const void* from, void* to, std::size_t bytes, Stream stream);

 private:
  struct Piece {
    std::size_t begin, end;  // in the ring
    EventHandle fetched;
  };
  void make_room(std::size_t begin, std::size_t end);
  EventHandle new_event();

  std::byte* ring_ = nullptr;  // pinned, for the life of the process
  std::size_t next_ = 0;
  std::deque<Piece> pieces_;       // oldest first
  std::vector<EventHandle> idle_;  // events to be used again
};

}  // namespace xmoe::gpu
