// Collectives over MPI, on host memory.
//
// MPI moves bytes and never adds: reductions are an exchange of parts, a sum in rank order here, and a gather
// of the results, so that the bits depend neither on MPI's choice of algorithm nor on timing. They go chunk
// by chunk through bounded scratch memory, which also keeps MPI's int counts small; the other collectives
// count rows, by a datatype of one row.

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/contract.h"
#include "comm/mpi_backend.h"
#include "comm/mpi_common.h"
#include "comm/mpi_transfer.h"
#include "comm/mpi_wait.h"
#include "comm/pending.h"
#include "comm/reduction.h"
#include "comm/traffic.h"

namespace xmoe::mpi {

namespace {

// Bytes of one broadcast message, well below what an int can count.
constexpr std::int64_t kBroadcastBytes = std::int64_t{1} << 30;

class MpiCommunicator final : public Communicator {
 public:
  // Takes over `comm`; `owned` ones are freed. Has at least two ranks.
  MpiCommunicator(MPI_Comm comm, bool owned, std::string name)
      : comm_(comm), owned_(owned), name_(std::move(name)) {
    check(MPI_Comm_rank(comm_, &rank_), "the query of the rank", name_);
    check(MPI_Comm_size(comm_, &size_), "the query of the size", name_);
    const auto n = static_cast<std::size_t>(size_);
    send_counts_.resize(n);
    send_offsets_.resize(n);
    recv_counts_.resize(n);
    recv_offsets_.resize(n);
    first_rows_.resize(n);
    int* highest_tag = nullptr;
    int found = 0;
    check(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &highest_tag, &found), "the query of tags", name_);
    if (found != 0) highest_tag_ = *highest_tag;
  }

  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0) return;
    for (auto& [bytes, type] : row_types_) MPI_Type_free(&type);
    if (owned_) MPI_Comm_free(&comm_);
  }

  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }
  const Traffic& traffic() const override { return traffic_; }
  const Arena& scratch() const override { return scratch_; }
  std::vector<const Arena*> arenas() const override {
    std::vector<const Arena*> all = {&scratch_};
    transfer_buffers_.list(all);
    return all;
  }

  void all_reduce(const Tensor& values, ReduceOp op) override;
  void all_gather(const Tensor& input, const Tensor& output) override;
  void reduce_scatter(const Tensor& input, const Tensor& output) override;
  void broadcast(const Tensor& values, int root) override;
  void all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                    std::span<const std::int64_t> recv_rows) override;
  std::unique_ptr<Transfer> start_exchange(std::span<const ExchangePart> parts) override;
  std::unique_ptr<Transfer> start_reduce_scatter(const Tensor& input, const Tensor& output) override;
  std::unique_ptr<Transfer> start_all_gather(const Tensor& input, const Tensor& output) override;
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) override;
  std::unique_ptr<Communicator> split_by_memory(const std::string& name) override;

 private:
  MPI_Datatype row_type(std::int64_t bytes);
  std::unique_ptr<Communicator> inherit_nodes(std::unique_ptr<Communicator> group) const;
  void reduce_by_gather(const Tensor& values, ReduceOp op);
  void reduce_chunk(std::byte* chunk, std::int64_t n, DType dtype, ReduceOp op);
  void begin_exchange(MpiTransfer& transfer, std::span<const ExchangePart> parts);
  template <typename F>
  void count(F bytes) {
    count_sent(traffic_, *this, bytes);
  }
  // A tag of its own for each buffer of an exchange. Ranks start the same exchanges in the same order, so
  // that they agree on it; messages of transfers that overlap are then told apart.
  int next_tag() {
    tag_ = tag_ == highest_tag_ ? 0 : tag_ + 1;
    return tag_;
  }

  MPI_Comm comm_;
  bool owned_;
  std::string name_;
  int rank_ = 0;
  int size_ = 0;
  Traffic traffic_;
  Arena scratch_{Device{}, MemoryTag::communication};
  // By size of a row; a model has a handful of row sizes.
  std::vector<std::pair<std::int64_t, MPI_Datatype>> row_types_;
  TransferBuffers transfer_buffers_;
  int tag_ = 0;
  int highest_tag_ = 32767;  // what the standard grants
  // Arguments of reductions: they live until the collective has completed, and a call allocates nothing.
  std::vector<int> send_counts_, send_offsets_, recv_counts_, recv_offsets_;
  std::vector<std::int64_t> first_rows_;  // in a buffer of an exchange, by rank
};

MPI_Datatype MpiCommunicator::row_type(std::int64_t bytes) {
  for (const auto& [known, type] : row_types_) {
    if (known == bytes) return type;
  }
  MPI_Datatype type = MPI_DATATYPE_NULL;
  check(MPI_Type_contiguous(to_count(bytes, "a row's bytes"), MPI_BYTE, &type), "making a row type", name_);
  check(MPI_Type_commit(&type), "making a row type", name_);
  row_types_.emplace_back(bytes, type);
  return type;
}

void MpiCommunicator::all_reduce(const Tensor& values, ReduceOp op) {
  contract::check_reducible(values);
  const PendingScope pending("all_reduce", name_);
  const auto element = static_cast<std::int64_t>(size_of(values.dtype()));
  const std::int64_t n = values.numel();
  ++traffic_.calls;
  if (n == 0) return;
  const ArenaScope scope(scratch_);
  if (reduces_by_gather(n * element, size_)) {
    reduce_by_gather(values, op);
    return;
  }
  const std::int64_t chunk = kReductionChunkBytes / element;
  auto* data = static_cast<std::byte*>(values.raw());
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    reduce_chunk(data + begin * element, std::min(chunk, n - begin), values.dtype(), op);
  }
}

void MpiCommunicator::reduce_by_gather(const Tensor& values, ReduceOp op) {
  const int bytes = static_cast<int>(values.bytes());
  void* gathered = scratch_.allocate(values.bytes() * static_cast<std::size_t>(size_));
  check(collective(MPI_Allgather, MPI_Iallgather, values.raw(), bytes, MPI_BYTE, gathered, bytes, MPI_BYTE,
                   comm_),
        "all_reduce", name_);
  count([&](int /*peer*/) { return std::int64_t{bytes}; });
  reduce_parts(op, values.dtype(), gathered, size_, values.numel(), values.raw());
}

void MpiCommunicator::reduce_chunk(std::byte* chunk, std::int64_t n, DType dtype, ReduceOp op) {
  const ArenaScope scope(scratch_);
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t mine = part_begin(n, size_, rank_ + 1) - part_begin(n, size_, rank_);
  void* parts = scratch_.allocate(static_cast<std::size_t>(mine * element * size_));
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    send_offsets_[i] = static_cast<int>(part_begin(n, size_, r));
    send_counts_[i] = static_cast<int>(part_begin(n, size_, r + 1) - part_begin(n, size_, r));
    recv_offsets_[i] = static_cast<int>(mine * r);
    recv_counts_[i] = static_cast<int>(mine);
  }
  const MPI_Datatype type = row_type(element);
  check(collective(MPI_Alltoallv, MPI_Ialltoallv, chunk, send_counts_.data(), send_offsets_.data(), type,
                   parts, recv_counts_.data(), recv_offsets_.data(), type, comm_),
        "all_reduce", name_);
  reduce_parts(op, dtype, parts, size_, mine, chunk + part_begin(n, size_, rank_) * element);
  check(collective(MPI_Allgatherv, MPI_Iallgatherv, MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, chunk,
                   send_counts_.data(), send_offsets_.data(), type, comm_),
        "all_reduce", name_);
  // A part to each, then this rank's sums to each.
  count([&](int peer) {
    return (part_begin(n, size_, peer + 1) - part_begin(n, size_, peer) + mine) * element;
  });
}

void MpiCommunicator::all_gather(const Tensor& input, const Tensor& output) {
  contract::check_all_gather(input, output, size_);
  const PendingScope pending("all_gather", name_);
  ++traffic_.calls;
  count([&](int /*peer*/) { return static_cast<std::int64_t>(input.bytes()); });
  if (input.bytes() == 0) return;
  const int rows = to_count(input.dim(0), "all_gather");
  const MPI_Datatype type = row_type(contract::row_bytes(input));
  const auto* own = static_cast<std::byte*>(output.raw()) + input.bytes() * static_cast<std::size_t>(rank_);
  const bool in_place = own == input.raw();
  check(collective(MPI_Allgather, MPI_Iallgather, in_place ? MPI_IN_PLACE : input.raw(), rows, type,
                   output.raw(), rows, type, comm_),
        "all_gather", name_);
}

void MpiCommunicator::reduce_scatter(const Tensor& input, const Tensor& output) {
  contract::check_reduce_scatter(input, output, size_);
  const PendingScope pending("reduce_scatter", name_);
  ++traffic_.calls;
  count([&](int /*peer*/) { return static_cast<std::int64_t>(output.bytes()); });
  const auto element = static_cast<std::int64_t>(size_of(output.dtype()));
  const std::int64_t n = output.numel();
  if (n == 0) return;
  const ArenaScope scope(scratch_);
  const std::int64_t block = std::min(n, std::max<std::int64_t>(1, kReductionChunkBytes / element / size_));
  const auto scratch_bytes = static_cast<std::size_t>(block * element * size_);
  auto* packed = static_cast<std::byte*>(scratch_.allocate(scratch_bytes));
  void* parts = scratch_.allocate(scratch_bytes);
  const auto* in = static_cast<const std::byte*>(input.raw());
  auto* out = static_cast<std::byte*>(output.raw());
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t m = std::min(block, n - begin);
    const auto bytes = static_cast<std::size_t>(m * element);
    for (int r = 0; r < size_; ++r) {
      std::memcpy(packed + r * m * element, in + (r * n + begin) * element, bytes);
    }
    const int message = static_cast<int>(bytes);
    check(collective(MPI_Alltoall, MPI_Ialltoall, packed, message, MPI_BYTE, parts, message, MPI_BYTE, comm_),
          "reduce_scatter", name_);
    reduce_parts(ReduceOp::sum, output.dtype(), parts, size_, m, out + begin * element);
  }
}

void MpiCommunicator::broadcast(const Tensor& values, int root) {
  contract::check_broadcast(values, root, size_);
  const PendingScope pending("broadcast", name_);
  const auto total = static_cast<std::int64_t>(values.bytes());
  ++traffic_.calls;
  if (rank_ == root) count([&](int /*peer*/) { return total; });
  auto* data = static_cast<std::byte*>(values.raw());
  for (std::int64_t begin = 0; begin < total; begin += kBroadcastBytes) {
    const int bytes = static_cast<int>(std::min(kBroadcastBytes, total - begin));
    check(collective(MPI_Bcast, MPI_Ibcast, data + begin, bytes, MPI_BYTE, root, comm_), "broadcast", name_);
  }
}

void MpiCommunicator::all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows,
                                   const Tensor& recv, std::span<const std::int64_t> recv_rows) {
  const ExchangePart part = {send, send_rows, recv, recv_rows};
  MpiTransfer transfer("all_to_all_v", name_, transfer_buffers_);
  begin_exchange(transfer, {&part, 1});
  transfer.wait();
}

std::unique_ptr<Transfer> MpiCommunicator::start_exchange(std::span<const ExchangePart> parts) {
  auto transfer = std::make_unique<MpiTransfer>("exchange", name_, transfer_buffers_);
  begin_exchange(*transfer, parts);
  transfer->leave_to_progress();
  return transfer;
}

void MpiCommunicator::begin_exchange(MpiTransfer& transfer, std::span<const ExchangePart> parts) {
  for (const ExchangePart& p : parts)
    contract::check_all_to_all_v(p.send, p.send_rows, p.recv, p.recv_rows, rank_, size_);
  ++traffic_.calls;
  // All receives come first: a message that finds its buffer is not copied twice.
  const int first_tag = tag_;
  const auto first_row = [this](int rank) { return first_rows_[static_cast<std::size_t>(rank)]; };
  const auto self = static_cast<std::size_t>(rank_);
  for (const ExchangePart& p : parts) {
    const int tag = next_tag();
    const std::int64_t row = contract::row_bytes(p.recv);
    auto* recv = static_cast<std::byte*>(p.recv.raw());
    std::exclusive_scan(p.recv_rows.begin(), p.recv_rows.end(), first_rows_.begin(), std::int64_t{0});
    for_each_peer(*this, [&](int peer) {
      const std::int64_t rows = p.recv_rows[static_cast<std::size_t>(peer)];
      if (rows * row == 0) return;
      transfer.receive(recv + first_row(peer) * row, rows, row_type(row), peer, tag, comm_);
    });
  }
  tag_ = first_tag;
  for (const ExchangePart& p : parts) {
    const int tag = next_tag();
    const std::int64_t row = contract::row_bytes(p.send);
    const auto* send = static_cast<const std::byte*>(p.send.raw());
    std::exclusive_scan(p.send_rows.begin(), p.send_rows.end(), first_rows_.begin(), std::int64_t{0});
    for_each_peer(*this, [&](int peer) {
      const std::int64_t rows = p.send_rows[static_cast<std::size_t>(peer)];
      if (rows * row == 0) return;
      transfer.send(send + first_row(peer) * row, rows, row_type(row), peer, tag, comm_);
    });
    count([&](int peer) { return p.send_rows[static_cast<std::size_t>(peer)] * row; });
  }
  // This rank's own rows, while the messages are on their way.
  for (const ExchangePart& p : parts) {
    const std::int64_t row = contract::row_bytes(p.send);
    if (p.send_rows[self] * row == 0) continue;
    const std::int64_t from =
        std::accumulate(p.send_rows.begin(), p.send_rows.begin() + rank_, std::int64_t{0});
    const std::int64_t to =
        std::accumulate(p.recv_rows.begin(), p.recv_rows.begin() + rank_, std::int64_t{0});
    std::memcpy(static_cast<std::byte*>(p.recv.raw()) + to * row,
                static_cast<const std::byte*>(p.send.raw()) + from * row,
                static_cast<std::size_t>(p.send_rows[self] * row));
  }
}

std::unique_ptr<Transfer> MpiCommunicator::start_reduce_scatter(const Tensor& input, const Tensor& output) {
  contract::check_reduce_scatter(input, output, size_);
  ++traffic_.calls;
  const auto bytes = static_cast<std::int64_t>(output.bytes());
  count([&](int /*peer*/) { return bytes; });
  auto transfer = std::make_unique<MpiTransfer>("reduce_scatter", name_, transfer_buffers_);
  if (bytes == 0) return transfer;
  const std::int64_t n = output.numel();
  const MPI_Datatype type = row_type(static_cast<std::int64_t>(size_of(output.dtype())));
  auto* parts = static_cast<std::byte*>(transfer->allocate(input.bytes()));
  const auto* in = static_cast<const std::byte*>(input.raw());
  const int tag = next_tag();
  for_each_peer(*this, [&](int peer) { transfer->receive(parts + peer * bytes, n, type, peer, tag, comm_); });
  for_each_peer(*this, [&](int peer) { transfer->send(in + peer * bytes, n, type, peer, tag, comm_); });
  std::memcpy(parts + rank_ * bytes, in + rank_ * bytes, output.bytes());
  transfer->then_sum(output.dtype(), parts, size_, n, output.raw());
  transfer->leave_to_progress();
  return transfer;
}

std::unique_ptr<Transfer> MpiCommunicator::start_all_gather(const Tensor& input, const Tensor& output) {
  contract::check_all_gather(input, output, size_);
  ++traffic_.calls;
  const auto bytes = static_cast<std::int64_t>(input.bytes());
  count([&](int /*peer*/) { return bytes; });
  auto transfer = std::make_unique<MpiTransfer>("all_gather", name_, transfer_buffers_);
  if (bytes == 0) return transfer;
  const std::int64_t rows = input.dim(0);
  const MPI_Datatype type = row_type(contract::row_bytes(input));
  auto* out = static_cast<std::byte*>(output.raw());
  const int tag = next_tag();
  for_each_peer(*this,
                [&](int peer) { transfer->receive(out + peer * bytes, rows, type, peer, tag, comm_); });
  for_each_peer(*this, [&](int peer) { transfer->send(input.raw(), rows, type, peer, tag, comm_); });
  if (out + rank_ * bytes != input.raw()) std::memcpy(out + rank_ * bytes, input.raw(), input.bytes());
  transfer->leave_to_progress();
  return transfer;
}

void MpiCommunicator::barrier() {
  const PendingScope pending("barrier", name_);
  ++traffic_.calls;
  MPI_Request all_here = MPI_REQUEST_NULL;
  check(MPI_Ibarrier(comm_, &all_here), "barrier", name_);
  check(wait_all({&all_here, 1}), "barrier", name_);
}

std::unique_ptr<Communicator> make_group(MPI_Comm comm, bool owned, const std::string& name) {
  int size = 0;
  check(MPI_Comm_size(comm, &size), "the query of the size", name);
  if (size > 1) return std::make_unique<MpiCommunicator>(comm, owned, name);
  if (owned) MPI_Comm_free(&comm);
  return make_self_communicator(name);
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key, const std::string& name) {
  const PendingScope pending("split", name_);
  MPI_Comm group = MPI_COMM_NULL;
  check(meet(comm_), "split", name_);
  check(MPI_Comm_split(comm_, color, key, &group), "split", name_);
  return inherit_nodes(make_group(group, /*owned=*/true, name));
}

std::unique_ptr<Communicator> MpiCommunicator::split_by_memory(const std::string& name) {
  const PendingScope pending("split", name_);
  MPI_Comm group = MPI_COMM_NULL;
  check(meet(comm_), "split", name_);
  check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &group), "split", name_);
  return inherit_nodes(make_group(group, /*owned=*/true, name));
}

std::unique_ptr<Communicator> MpiCommunicator::inherit_nodes(std::unique_ptr<Communicator> group) const {
  if (nodes().empty() || group->size() == 1) return group;
  std::vector<std::int64_t> all(static_cast<std::size_t>(group->size()));
  std::int64_t own = nodes()[static_cast<std::size_t>(rank_)];
  group->all_gather(Tensor(&own, DType::i64, {1}), Tensor(all.data(), DType::i64, {group->size()}));
  group->set_nodes(std::vector<int>(all.begin(), all.end()));
  return group;
}

}  // namespace

std::unique_ptr<Communicator> make_world() { return make_group(MPI_COMM_WORLD, /*owned=*/false, "world"); }

}  // namespace xmoe::mpi
