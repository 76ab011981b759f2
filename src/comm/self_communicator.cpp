// The group of one rank: every collective is a copy or nothing. On a device copies are queued on its stream.
#include "comm/communicator.h"
#include "comm/contract.h"

namespace xmoe {

namespace {

void copy(const Tensor& from, const Tensor& to) {
  if (from.raw() != to.raw()) device_copy(from.device(), from.raw(), to.device(), to.raw(), from.bytes());
}

class Finished final : public Transfer {
 public:
  void wait() override {}
};

class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator(std::string name, const Device& device) : name_(std::move(name)), device_(device) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  const std::string& name() const override { return name_; }

  void all_reduce(const Tensor& values, ReduceOp /*op*/) override {
    contract::check_reducible(values, place_of(values));
    ++traffic_.calls;
  }
  void all_gather(const Tensor& input, const Tensor& output) override {
    contract::check_all_gather(input, output, 1, place_of(input));
    ++traffic_.calls;
    copy(input, output);
  }
  void reduce_scatter(const Tensor& input, const Tensor& output) override {
    contract::check_reduce_scatter(input, output, 1, place_of(input));
    ++traffic_.calls;
    copy(input, output);
  }
  void broadcast(const Tensor& values, int root) override {
    contract::check_broadcast(values, root, 1, place_of(values));
    ++traffic_.calls;
  }
  void all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                    std::span<const std::int64_t> recv_rows) override {
    contract::check_all_to_all_v(send, send_rows, recv, recv_rows, 0, 1, place_of(send));
    ++traffic_.calls;
    copy(send, recv);
  }
  std::unique_ptr<Transfer> start_exchange(std::span<const ExchangePart> parts) override {
    for (const ExchangePart& p : parts) {
      contract::check_all_to_all_v(p.send, p.send_rows, p.recv, p.recv_rows, 0, 1, place_of(p.send));
      copy(p.send, p.recv);
    }
    ++traffic_.calls;
    return std::make_unique<Finished>();
  }
  std::unique_ptr<Transfer> start_reduce_scatter(const Tensor& input, const Tensor& output) override {
    reduce_scatter(input, output);
    return std::make_unique<Finished>();
  }
  std::unique_ptr<Transfer> start_all_gather(const Tensor& input, const Tensor& output) override {
    all_gather(input, output);
    return std::make_unique<Finished>();
  }
  void barrier() override {
    ++traffic_.calls;
    synchronize(device_);
  }
  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/, const std::string& name) override {
    return make_self_communicator(name, device_);
  }
  std::unique_ptr<Communicator> split_by_memory(const std::string& name) override {
    return make_self_communicator(name, device_);
  }
  const Traffic& traffic() const override { return traffic_; }
  const Arena& scratch() const override { return scratch_; }

 private:
  // Where the tensors of a call that begins with this one must be: the host or the group's device.
  Device place_of(const Tensor& first) const { return first.device() == device_ ? device_ : Device{}; }

  std::string name_;
  Device device_;
  Traffic traffic_;
  Arena scratch_{Device{}, MemoryTag::communication};  // never needed
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator(const std::string& name, const Device& device) {
  return std::make_unique<SelfCommunicator>(name, device);
}

}  // namespace xmoe
