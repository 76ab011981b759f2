// The group of one rank: every collective is a copy or nothing.
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
  explicit SelfCommunicator(std::string name) : name_(std::move(name)) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  const std::string& name() const override { return name_; }

  void all_reduce(const Tensor& values, ReduceOp /*op*/) override {
    contract::check_reducible(values);
    ++traffic_.calls;
  }
  void all_gather(const Tensor& input, const Tensor& output) override {
    contract::check_all_gather(input, output, 1);
    ++traffic_.calls;
    copy(input, output);
  }
  void reduce_scatter(const Tensor& input, const Tensor& output) override {
    contract::check_reduce_scatter(input, output, 1);
    ++traffic_.calls;
    copy(input, output);
  }
  void broadcast(const Tensor& /*values*/, int root) override {
    contract::check_root(root, 1);
    ++traffic_.calls;
  }
  void all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                    std::span<const std::int64_t> recv_rows) override {
    contract::check_all_to_all_v(send, send_rows, recv, recv_rows, 0, 1);
    ++traffic_.calls;
    copy(send, recv);
  }
  std::unique_ptr<Transfer> start_exchange(std::span<const ExchangePart> parts) override {
    for (const ExchangePart& p : parts) {
      contract::check_all_to_all_v(p.send, p.send_rows, p.recv, p.recv_rows, 0, 1);
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
  void barrier() override { ++traffic_.calls; }
  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/, const std::string& name) override {
    return make_self_communicator(name);
  }
  std::unique_ptr<Communicator> split_by_memory(const std::string& name) override {
    return make_self_communicator(name);
  }
  const Traffic& traffic() const override { return traffic_; }
  const Arena& scratch() const override { return scratch_; }

 private:
  std::string name_;
  Traffic traffic_;
  Arena scratch_{Device{}, MemoryTag::communication};  // never needed
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator(const std::string& name) {
  return std::make_unique<SelfCommunicator>(name);
}

}  // namespace xmoe
