// Groups of ranks that compute on a device each: collectives of tensors there besides those of the host.
#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"

namespace xmoe {

enum class DeviceBackend : std::uint8_t {
  nccl,    // from device to device
  staged,  // through pinned host memory and the host's group: where NCCL cannot be had, and to compare with
};

// Collective over `host_world`, which outlives the result and all groups made from it: the same ranks, of
// which this one computes on `device`. Host tensors go through a group of the host's ranks, device tensors
// through the backend; groups split from it are of the same kind. With nccl each rank of a group has a GPU of
// its own, and a group connects its GPUs at its first collective on them. For the CPU: a group of the host's
// ranks.
std::unique_ptr<Communicator> make_device_communicator(Communicator& host_world, const Device& device,
                                                       DeviceBackend backend);

}  // namespace xmoe
