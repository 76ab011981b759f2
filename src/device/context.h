// What an op needs besides its tensors: where it runs and scratch memory for the time of the call.
#pragma once

#include "device/arena.h"
#include "device/device.h"

namespace xmoe {

struct Context {
  Arena& workspace;  // an op opens an ArenaScope on it; its device is the op's device

  const Device& device() const { return workspace.device(); }
};

}  // namespace xmoe
