// Collectives of tensors on GPUs by NCCL. Bytes travel as bytes; sums are NCCL's, in the order of its
// algorithm, which is the same whenever the same ranks sum as many elements.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/contract.h"
#include "comm/device_collectives.h"
#include "comm/nccl_group_gpu.h"
#include "comm/reduction.h"
#include "comm/traffic.h"

namespace xmoe::gpu {

namespace {

constexpr int kThreads = 256;

constexpr int kGreatestKey = std::numeric_limits<int>::max();
constexpr int kLeastKey = std::numeric_limits<int>::min();

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::i64:
      return ncclInt64;
    default:
      XMOE_CHECK(false, "no reduction of {}", name_of(dtype));
  }
}

ncclRedOp_t op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::max:
      return ncclMax;
    case ReduceOp::min:
      return ncclMin;
  }
  XMOE_CHECK(false, "no such operation");
}

// The greatest and the least of floats are those of integers in the same order: positive floats have it by
// their bits, negative ones the other way round. Beyond the infinities at either end lie bits of NaNs, so
// that a NaN wins, which NCCL's own maximum of floats drops.
template <typename T>
__global__ void to_keys(const T* values, std::int64_t n, bool greatest, int* keys) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const float value = to_float(values[i]);
  const int bits = __float_as_int(value);
  keys[i] = value != value ? (greatest ? kGreatestKey : kLeastKey) : bits ^ (bits < 0 ? 0x7fffffff : 0);
}

template <typename T>
__global__ void from_keys(const int* keys, std::int64_t n, T* values) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  round_to(__int_as_float(keys[i] ^ (keys[i] < 0 ? 0x7fffffff : 0)), values[i]);
}

class NcclTransfer final : public Transfer {
 public:
  NcclTransfer(const NcclGroup& group, std::shared_ptr<Event> end) : group_(group), end_(std::move(end)) {}
  ~NcclTransfer() override {
    try {
      wait();
    } catch (const std::exception& error) {
      log::error("{}", error.what());
    }
  }
  NcclTransfer(const NcclTransfer&) = delete;
  NcclTransfer& operator=(const NcclTransfer&) = delete;

  void wait() override {
    if (const auto end = std::exchange(end_, nullptr)) group_.hold_up_device(*end);
  }

 private:
  const NcclGroup& group_;
  std::shared_ptr<Event> end_;
};

class Finished final : public Transfer {
 public:
  void wait() override {}
};

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(Communicator& host, const Device& device)
      : host_(host), device_(device), scratch_(device, MemoryTag::communication) {}

  void all_reduce(const Tensor& values, ReduceOp op) override;
  void broadcast(const Tensor& values, int root) override;
  std::unique_ptr<Transfer> all_gather(const Tensor& input, const Tensor& output, Start start) override;
  std::unique_ptr<Transfer> reduce_scatter(const Tensor& input, const Tensor& output, Start start) override;
  std::unique_ptr<Transfer> exchange(std::span<const ExchangePart> parts, Start start) override;

  Traffic traffic() const override { return traffic_; }
  const Arena& scratch() const override { return scratch_; }

 private:
  // Connected at the first collective: groups whose GPUs never meet cost no memory.
  NcclGroup& group() {
    if (group_ == nullptr) {
      const Traffic before = host_.traffic();
      group_ = std::make_unique<NcclGroup>(host_, device_);
      // The account is of tensors.
      const Traffic& after = host_.traffic();
      traffic_.calls -= after.calls - before.calls;
      traffic_.bytes_sent -= after.bytes_sent - before.bytes_sent;
      traffic_.bytes_between_nodes -= after.bytes_between_nodes - before.bytes_between_nodes;
    }
    return *group_;
  }
  std::unique_ptr<Transfer> transfer(std::shared_ptr<Event> end, Start start) {
    if (start == Start::blocking) return nullptr;
    return std::make_unique<NcclTransfer>(*group_, std::move(end));
  }
  // Whichever way NCCL goes, the account is what other backends send: parts to be summed, and sums.
  void count_all_reduce(std::int64_t n, std::int64_t element);
  template <typename T>
  void reduce_floats(T* values, std::int64_t n, ReduceOp op);

  Communicator& host_;
  Device device_;
  Arena scratch_;
  Traffic traffic_;
  std::unique_ptr<NcclGroup> group_;
};

void NcclCollectives::count_all_reduce(std::int64_t n, std::int64_t element) {
  const int ranks = host_.size();
  const auto part = [&](int r) { return part_begin(n, ranks, r + 1) - part_begin(n, ranks, r); };
  count_sent(traffic_, host_, [&](int peer) {
    return element * (reduces_by_gather(n * element, ranks) ? n : part(peer) + part(host_.rank()));
  });
}

void NcclCollectives::all_reduce(const Tensor& values, ReduceOp op) {
  ++traffic_.calls;
  const std::int64_t n = values.numel();
  if (n == 0) return;
  count_all_reduce(n, static_cast<std::int64_t>(size_of(values.dtype())));
  if (op != ReduceOp::sum && is_float(values.dtype()))
    return with_float(values.dtype(), [&]<typename T>(T) { reduce_floats(values.data<T>(), n, op); });
  group().run("all_reduce", false, [&](ncclComm_t comm, Stream stream) {
    group_->check(ncclAllReduce(values.raw(), values.raw(), static_cast<std::size_t>(n),
                                type_of(values.dtype()), op_of(op), comm, stream),
                  "all_reduce");
  });
}

template <typename T>
void NcclCollectives::reduce_floats(T* values, std::int64_t n, ReduceOp op) {
  const ArenaScope scope(scratch_);
  constexpr std::int64_t kChunk = kReductionChunkBytes / static_cast<std::int64_t>(sizeof(int));
  auto* keys =
      static_cast<int*>(scratch_.allocate(static_cast<std::size_t>(std::min(n, kChunk)) * sizeof(int)));
  const Stream stream = gpu::stream(device_);
  for (std::int64_t begin = 0; begin < n; begin += kChunk) {
    const std::int64_t m = std::min(kChunk, n - begin);
    const auto blocks = static_cast<unsigned>((m + kThreads - 1) / kThreads);
    launch(to_keys<T>, blocks, kThreads, 0, stream, values + begin, m, op == ReduceOp::max, keys);
    group().run("all_reduce", false, [&](ncclComm_t comm, Stream on) {
      group_->check(ncclAllReduce(keys, keys, static_cast<std::size_t>(m), ncclInt32, op_of(op), comm, on),
                    "all_reduce");
    });
    launch(from_keys<T>, blocks, kThreads, 0, stream, keys, m, values + begin);
  }
}

void NcclCollectives::broadcast(const Tensor& values, int root) {
  ++traffic_.calls;
  const std::size_t bytes = values.bytes();
  if (host_.rank() == root)
    count_sent(traffic_, host_, [&](int /*peer*/) { return static_cast<std::int64_t>(bytes); });
  if (bytes == 0) return;
  group().run("broadcast", false, [&](ncclComm_t comm, Stream stream) {
    group_->check(ncclBroadcast(values.raw(), values.raw(), bytes, ncclUint8, root, comm, stream),
                  "broadcast");
  });
}

std::unique_ptr<Transfer> NcclCollectives::all_gather(const Tensor& input, const Tensor& output,
                                                      Start start) {
  ++traffic_.calls;
  const std::size_t bytes = input.bytes();
  count_sent(traffic_, host_, [&](int /*peer*/) { return static_cast<std::int64_t>(bytes); });
  if (bytes == 0) return std::make_unique<Finished>();
  return transfer(group().run("all_gather", start == Start::under_way,
                              [&](ncclComm_t comm, Stream stream) {
                                group_->check(
                                    ncclAllGather(input.raw(), output.raw(), bytes, ncclUint8, comm, stream),
                                    "all_gather");
                              }),
                  start);
}

std::unique_ptr<Transfer> NcclCollectives::reduce_scatter(const Tensor& input, const Tensor& output,
                                                          Start start) {
  ++traffic_.calls;
  const auto n = static_cast<std::size_t>(output.numel());
  count_sent(traffic_, host_, [&](int /*peer*/) { return static_cast<std::int64_t>(output.bytes()); });
  if (n == 0) return std::make_unique<Finished>();
  return transfer(group().run("reduce_scatter", start == Start::under_way,
                              [&](ncclComm_t comm, Stream stream) {
                                group_->check(
                                    ncclReduceScatter(input.raw(), output.raw(), n, type_of(input.dtype()),
                                                      ncclSum, comm, stream),
                                    "reduce_scatter");
                              }),
                  start);
}

std::unique_ptr<Transfer> NcclCollectives::exchange(std::span<const ExchangePart> parts, Start start) {
  ++traffic_.calls;
  for (const ExchangePart& p : parts)
    count_sent(traffic_, host_, [&](int peer) {
      return p.send_rows[static_cast<std::size_t>(peer)] * contract::row_bytes(p.send);
    });
  const char* operation = start == Start::blocking ? "all_to_all_v" : "exchange";
  // One part behind another: NCCL matches the messages of a pair of ranks in their order. Ranks without rows
  // for each other have no message.
  return transfer(
      group().run(operation, start == Start::under_way,
                  [&](ncclComm_t comm, Stream stream) {
                    for (const ExchangePart& p : parts) {
                      const std::int64_t row = contract::row_bytes(p.send);
                      const auto* from = static_cast<const std::byte*>(p.send.raw());
                      auto* to = static_cast<std::byte*>(p.recv.raw());
                      for (int r = 0; r < host_.size(); ++r) {
                        const auto out =
                            static_cast<std::size_t>(p.send_rows[static_cast<std::size_t>(r)] * row);
                        const auto in =
                            static_cast<std::size_t>(p.recv_rows[static_cast<std::size_t>(r)] * row);
                        if (r == host_.rank()) {
                          if (out > 0)
                            check(XMOE_GPU_NAME(MemcpyAsync)(to, from, out,
                                                             XMOE_GPU_NAME(MemcpyDeviceToDevice), stream),
                                  "copying a rank's own rows");
                        } else {
                          if (out > 0)
                            group_->check(ncclSend(from, out, ncclUint8, r, comm, stream), operation);
                          if (in > 0) group_->check(ncclRecv(to, in, ncclUint8, r, comm, stream), operation);
                        }
                        from += out;
                        to += in;
                      }
                    }
                  }),
      start);
}

}  // namespace

std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& host, const Device& device) {
  return std::make_unique<NcclCollectives>(host, device);
}

}  // namespace xmoe::gpu
