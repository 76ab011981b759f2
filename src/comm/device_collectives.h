// What a backend for devices implements: collectives of tensors on one device, which DeviceCommunicator joins
// to a group of the host's ranks.
#pragma once

#include <memory>
#include <span>

#include "comm/communicator.h"

namespace xmoe {

// Whether the caller goes on while the collective is under way.
enum class Start : std::uint8_t { blocking, under_way };

// Arguments are checked. Those that return a Transfer may return none when they are blocking.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;
  virtual void all_reduce(const Tensor& values, ReduceOp op) = 0;
  virtual void broadcast(const Tensor& values, int root) = 0;
  virtual std::unique_ptr<Transfer> all_gather(const Tensor& input, const Tensor& output, Start start) = 0;
  virtual std::unique_ptr<Transfer> reduce_scatter(const Tensor& input, const Tensor& output,
                                                   Start start) = 0;
  virtual std::unique_ptr<Transfer> exchange(std::span<const ExchangePart> parts, Start start) = 0;

  virtual Traffic traffic() const = 0;  // what is not in the account of the host's group
  virtual const Arena& scratch() const = 0;
};

// For the ranks of `host`, which outlives the result. Only in a binary that is built for GPUs.
namespace gpu {
std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& host, const Device& device);
std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& host, const Device& device);
}  // namespace gpu

}  // namespace xmoe
