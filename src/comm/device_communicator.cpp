#include "comm/device_communicator.h"

#include <utility>

#include "base/error.h"
#include "comm/contract.h"
#include "comm/device_collectives.h"
#include "device/gpu_built.h"

namespace xmoe {

namespace {

std::unique_ptr<DeviceCollectives> make_collectives(Communicator& host, const Device& device,
                                                    DeviceBackend backend) {
  if constexpr (kGpuBuilt)
    return backend == DeviceBackend::nccl ? gpu::make_nccl_collectives(host, device)
                                          : gpu::make_staged_collectives(host, device);
  fail_not_built("communication of device memory", device);
}

class DeviceCommunicator final : public Communicator {
 public:
  // Has at least two ranks.
  DeviceCommunicator(std::unique_ptr<Communicator> host, const Device& device, DeviceBackend backend)
      : host_(std::move(host)),
        device_(device),
        backend_(backend),
        collectives_(make_collectives(*host_, device, backend)) {
    const auto nodes = host_->nodes();
    Communicator::set_nodes({nodes.begin(), nodes.end()});
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const std::string& name() const override { return host_->name(); }

  void all_reduce(const Tensor& values, ReduceOp op) override {
    if (!here(values)) return host_->all_reduce(values, op);
    contract::check_reducible(values, device_);
    collectives_->all_reduce(values, op);
  }
  void broadcast(const Tensor& values, int root) override {
    if (!here(values)) return host_->broadcast(values, root);
    contract::check_broadcast(values, root, size(), device_);
    collectives_->broadcast(values, root);
  }
  void all_gather(const Tensor& input, const Tensor& output) override {
    if (!here(input)) return host_->all_gather(input, output);
    contract::check_all_gather(input, output, size(), device_);
    collectives_->all_gather(input, output, Start::blocking);
  }
  std::unique_ptr<Transfer> start_all_gather(const Tensor& input, const Tensor& output) override {
    if (!here(input)) return host_->start_all_gather(input, output);
    contract::check_all_gather(input, output, size(), device_);
    return collectives_->all_gather(input, output, Start::under_way);
  }
  void reduce_scatter(const Tensor& input, const Tensor& output) override {
    if (!here(input)) return host_->reduce_scatter(input, output);
    contract::check_reduce_scatter(input, output, size(), device_);
    collectives_->reduce_scatter(input, output, Start::blocking);
  }
  std::unique_ptr<Transfer> start_reduce_scatter(const Tensor& input, const Tensor& output) override {
    if (!here(input)) return host_->start_reduce_scatter(input, output);
    contract::check_reduce_scatter(input, output, size(), device_);
    return collectives_->reduce_scatter(input, output, Start::under_way);
  }
  void all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                    std::span<const std::int64_t> recv_rows) override {
    if (!here(send)) return host_->all_to_all_v(send, send_rows, recv, recv_rows);
    const ExchangePart part = {send, send_rows, recv, recv_rows};
    check({&part, 1});
    collectives_->exchange({&part, 1}, Start::blocking);
  }
  std::unique_ptr<Transfer> start_exchange(std::span<const ExchangePart> parts) override {
    if (parts.empty() || !here(parts.front().send)) return host_->start_exchange(parts);
    check(parts);
    return collectives_->exchange(parts, Start::under_way);
  }
  void barrier() override {
    synchronize(device_);
    host_->barrier();
  }

  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) override {
    return of_this_kind(host_->split(color, key, name));
  }
  std::unique_ptr<Communicator> split_by_memory(const std::string& name) override {
    return of_this_kind(host_->split_by_memory(name));
  }
  void set_nodes(std::vector<int> nodes) override {
    host_->set_nodes(nodes);
    Communicator::set_nodes(std::move(nodes));
  }

  const Traffic& traffic() const override {
    const Traffic& host = host_->traffic();
    const Traffic device = collectives_->traffic();
    traffic_ = {host.calls + device.calls, host.bytes_sent + device.bytes_sent,
                host.bytes_between_nodes + device.bytes_between_nodes};
    return traffic_;
  }
  const Arena& scratch() const override { return collectives_->scratch(); }
  std::vector<const Arena*> arenas() const override {
    std::vector<const Arena*> all = host_->arenas();
    if (all.front() != &scratch()) all.push_back(&scratch());
    return all;
  }

 private:
  bool here(const Tensor& first) const { return !first.device().is_cpu(); }
  void check(std::span<const ExchangePart> parts) const {
    for (const ExchangePart& p : parts)
      contract::check_all_to_all_v(p.send, p.send_rows, p.recv, p.recv_rows, rank(), size(), device_);
  }
  std::unique_ptr<Communicator> of_this_kind(std::unique_ptr<Communicator> host) const {
    if (host->size() == 1) return make_self_communicator(host->name(), device_);
    return std::make_unique<DeviceCommunicator>(std::move(host), device_, backend_);
  }

  std::unique_ptr<Communicator> host_;
  Device device_;
  DeviceBackend backend_;
  std::unique_ptr<DeviceCollectives> collectives_;
  mutable Traffic traffic_;  // the sum, as of the last question
};

}  // namespace

std::unique_ptr<Communicator> make_device_communicator(Communicator& host_world, const Device& device,
                                                       DeviceBackend backend) {
  if (const std::string reason = why_unusable(device); !reason.empty()) fail("{}", reason);
  auto host = host_world.split(0, host_world.rank(), host_world.name());
  if (device.is_cpu()) return host;
  if (host->size() == 1) return make_self_communicator(host->name(), device);
  return std::make_unique<DeviceCommunicator>(std::move(host), device, backend);
}

}  // namespace xmoe
