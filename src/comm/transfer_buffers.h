// Memory that transfers bring along. They end in any order, so that each has an arena of its own, which the
// next one takes over: in a steady state nothing is allocated.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "device/arena.h"

namespace xmoe {

class TransferBuffers {
 public:
  Arena& take(std::size_t bytes);  // an empty one; the smallest that has room, else the largest
  void give_back(Arena& arena);
  void list(std::vector<const Arena*>& arenas) const;

 private:
  struct Buffer {
    std::unique_ptr<Arena> arena;
    bool taken = false;
  };
  std::vector<Buffer> buffers_;
};

}  // namespace xmoe
