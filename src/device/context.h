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
  // The tensor where this context runs: itself, or a copy in the workspace.
  Tensor here(const Tensor& tensor) const {
    if (!tensor.defined() || tensor.device() == device()) return tensor;
    const Tensor copy = workspace.tensor(tensor.dtype(), tensor.shape());
    copy_across(tensor, copy);
    return copy;
  }
};

}  // namespace xmoe
