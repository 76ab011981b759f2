// What an op needs besides its tensors: where it runs and scratch memory for the time of the call. On a GPU
// the call only queues work on the device's one stream (device.h): an op that leaves its ArenaScope gives
// back memory that queued work still uses, and the next to be handed that memory runs after it.
#pragma once

#include "device/arena.h"
#include "device/device.h"

namespace xmoe {

struct Context {
  Arena& workspace;  // an op opens an ArenaScope on it; its device is the op's device

  const Device& device() const { return workspace.device(); }
};

}  // namespace xmoe
