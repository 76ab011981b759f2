// Collectives over MPI, on host memory.
//
// MPI moves bytes and never adds: reductions are an exchange of parts, a sum in rank order here, and a gather
// of the results, so that the bits depend neither on MPI's choice of algorithm nor on timing. They go chunk
// by chunk through bounded scratch memory, which also keeps MPI's int counts small; the other collectives
// count rows, by a datatype of one row.

// The C interface only: MPI's retired C++ bindings would have to be linked.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/contract.h"
#include "comm/mpi_backend.h"
#include "comm/reduction.h"

namespace xmoe {

namespace mpi {

namespace {

// Bytes of a reduction in flight at once: a message to each of some tens of ranks is then still long enough
// to be bound by bandwidth, and scratch memory is negligible beside a model.
constexpr std::int64_t kChunkBytes = std::int64_t{4} << 20;
// Below this much gathered data a reduction is one gather and a sum on every rank: one latency instead of
// two.
constexpr std::int64_t kGatherBytes = std::int64_t{64} << 10;
// Bytes of one broadcast message, well below what an int can count.
constexpr std::int64_t kBroadcastBytes = std::int64_t{1} << 30;

std::atomic<const char*> pending_name{nullptr};
std::atomic<const char*> pending_group{nullptr};

void check(int code, const char* operation, const std::string& group) {
  if (code == MPI_SUCCESS) return;
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  fail("MPI failed in {} of the group {}: {}", operation, group, text);
}

int to_count(std::int64_t n, const char* operation) {
  XMOE_CHECK(n <= std::numeric_limits<int>::max(), "{}: {} rows are more than MPI can count", operation, n);
  return static_cast<int>(n);
}

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
  // [begin, end) of the elements of a chunk of n that rank r reduces.
  std::int64_t part_begin(std::int64_t n, int r) const { return n * r / size_; }
  void reduce_by_gather(const Tensor& values, ReduceOp op);
  void reduce_chunk(std::byte* chunk, std::int64_t n, DType dtype, ReduceOp op);
  void count(std::int64_t bytes_sent) {
    ++traffic_.calls;
    traffic_.bytes_sent += bytes_sent;
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
  // Arguments of the uneven exchanges, kept so that a call allocates nothing.
  std::vector<int> send_counts_, send_offsets_, recv_counts_, recv_offsets_;
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
  const PendingOperation pending("all_reduce", name_);
  const auto element = static_cast<std::int64_t>(size_of(values.dtype()));
  const std::int64_t n = values.numel();
  count(0);
  if (n == 0) return;
  const ArenaScope scope(scratch_);
  if (n * element * size_ <= kGatherBytes) {
    reduce_by_gather(values, op);
    return;
  }
  const std::int64_t chunk = kChunkBytes / element;
  auto* data = static_cast<std::byte*>(values.raw());
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    reduce_chunk(data + begin * element, std::min(chunk, n - begin), values.dtype(), op);
  }
}

void MpiCommunicator::reduce_by_gather(const Tensor& values, ReduceOp op) {
  const int bytes = static_cast<int>(values.bytes());
  void* gathered = scratch_.allocate(values.bytes() * static_cast<std::size_t>(size_));
  check(MPI_Allgather(values.raw(), bytes, MPI_BYTE, gathered, bytes, MPI_BYTE, comm_), "all_reduce", name_);
  traffic_.bytes_sent += std::int64_t{bytes} * (size_ - 1);
  reduce_parts(op, values.dtype(), gathered, size_, values.numel(), values.raw());
}

void MpiCommunicator::reduce_chunk(std::byte* chunk, std::int64_t n, DType dtype, ReduceOp op) {
  const ArenaScope scope(scratch_);
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t mine = part_begin(n, rank_ + 1) - part_begin(n, rank_);
  void* parts = scratch_.allocate(static_cast<std::size_t>(mine * element * size_));
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    send_offsets_[i] = static_cast<int>(part_begin(n, r));
    send_counts_[i] = static_cast<int>(part_begin(n, r + 1) - part_begin(n, r));
    recv_offsets_[i] = static_cast<int>(mine * r);
    recv_counts_[i] = static_cast<int>(mine);
  }
  const MPI_Datatype type = row_type(element);
  check(MPI_Alltoallv(chunk, send_counts_.data(), send_offsets_.data(), type, parts, recv_counts_.data(),
                      recv_offsets_.data(), type, comm_),
        "all_reduce", name_);
  reduce_parts(op, dtype, parts, size_, mine, chunk + part_begin(n, rank_) * element);
  check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, chunk, send_counts_.data(), send_offsets_.data(),
                       type, comm_),
        "all_reduce", name_);
  traffic_.bytes_sent += ((n - mine) + mine * (size_ - 1)) * element;
}

void MpiCommunicator::all_gather(const Tensor& input, const Tensor& output) {
  contract::check_all_gather(input, output, size_);
  const PendingOperation pending("all_gather", name_);
  count(static_cast<std::int64_t>(input.bytes()) * (size_ - 1));
  if (input.bytes() == 0) return;
  const int rows = to_count(input.dim(0), "all_gather");
  const MPI_Datatype type = row_type(contract::row_bytes(input));
  const auto* own = static_cast<std::byte*>(output.raw()) + input.bytes() * static_cast<std::size_t>(rank_);
  const bool in_place = own == input.raw();
  check(MPI_Allgather(in_place ? MPI_IN_PLACE : input.raw(), rows, type, output.raw(), rows, type, comm_),
        "all_gather", name_);
}

void MpiCommunicator::reduce_scatter(const Tensor& input, const Tensor& output) {
  contract::check_reduce_scatter(input, output, size_);
  const PendingOperation pending("reduce_scatter", name_);
  count(static_cast<std::int64_t>(output.bytes()) * (size_ - 1));
  const auto element = static_cast<std::int64_t>(size_of(output.dtype()));
  const std::int64_t n = output.numel();
  if (n == 0) return;
  const ArenaScope scope(scratch_);
  const std::int64_t block = std::min(n, std::max<std::int64_t>(1, kChunkBytes / element / size_));
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
    check(MPI_Alltoall(packed, message, MPI_BYTE, parts, message, MPI_BYTE, comm_), "reduce_scatter", name_);
    reduce_parts(ReduceOp::sum, output.dtype(), parts, size_, m, out + begin * element);
  }
}

void MpiCommunicator::broadcast(const Tensor& values, int root) {
  contract::check_root(root, size_);
  if (!values.device().is_cpu()) fail_not_built("broadcast of device memory", values.device());
  const PendingOperation pending("broadcast", name_);
  const auto total = static_cast<std::int64_t>(values.bytes());
  count(rank_ == root ? total * (size_ - 1) : 0);
  auto* data = static_cast<std::byte*>(values.raw());
  for (std::int64_t begin = 0; begin < total; begin += kBroadcastBytes) {
    const int bytes = static_cast<int>(std::min(kBroadcastBytes, total - begin));
    check(MPI_Bcast(data + begin, bytes, MPI_BYTE, root, comm_), "broadcast", name_);
  }
}

void MpiCommunicator::all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows,
                                   const Tensor& recv, std::span<const std::int64_t> recv_rows) {
  contract::check_all_to_all_v(send, send_rows, recv, recv_rows, rank_, size_);
  const PendingOperation pending("all_to_all_v", name_);
  const std::int64_t row = contract::row_bytes(send);
  const auto self = static_cast<std::size_t>(rank_);
  count((send.dim(0) - send_rows[self]) * row);
  if (row == 0) return;  // alike on all ranks
  to_count(send.dim(0), "all_to_all_v");
  to_count(recv.dim(0), "all_to_all_v");
  std::int64_t sent = 0;
  std::int64_t received = 0;
  for (std::size_t r = 0; r < static_cast<std::size_t>(size_); ++r) {
    if (r == self && send_rows[r] > 0) {
      std::memcpy(static_cast<std::byte*>(recv.raw()) + received * row,
                  static_cast<const std::byte*>(send.raw()) + sent * row,
                  static_cast<std::size_t>(send_rows[r] * row));
    }
    send_offsets_[r] = static_cast<int>(sent);
    send_counts_[r] = r == self ? 0 : static_cast<int>(send_rows[r]);
    recv_offsets_[r] = static_cast<int>(received);
    recv_counts_[r] = r == self ? 0 : static_cast<int>(recv_rows[r]);
    sent += send_rows[r];
    received += recv_rows[r];
  }
  const MPI_Datatype type = row_type(row);
  check(MPI_Alltoallv(send.raw(), send_counts_.data(), send_offsets_.data(), type, recv.raw(),
                      recv_counts_.data(), recv_offsets_.data(), type, comm_),
        "all_to_all_v", name_);
}

class Finished final : public Transfer {
 public:
  void wait() override {}
};

std::unique_ptr<Transfer> MpiCommunicator::start_exchange(std::span<const ExchangePart> parts) {
  for (const ExchangePart& p : parts) all_to_all_v(p.send, p.send_rows, p.recv, p.recv_rows);
  return std::make_unique<Finished>();
}

std::unique_ptr<Transfer> MpiCommunicator::start_reduce_scatter(const Tensor& input, const Tensor& output) {
  reduce_scatter(input, output);
  return std::make_unique<Finished>();
}

std::unique_ptr<Transfer> MpiCommunicator::start_all_gather(const Tensor& input, const Tensor& output) {
  all_gather(input, output);
  return std::make_unique<Finished>();
}

void MpiCommunicator::barrier() {
  const PendingOperation pending("barrier", name_);
  count(0);
  check(MPI_Barrier(comm_), "barrier", name_);
}

std::unique_ptr<Communicator> make_group(MPI_Comm comm, bool owned, const std::string& name) {
  int size = 0;
  check(MPI_Comm_size(comm, &size), "the query of the size", name);
  if (size > 1) return std::make_unique<MpiCommunicator>(comm, owned, name);
  if (owned) MPI_Comm_free(&comm);
  return make_self_communicator(name);
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key, const std::string& name) {
  const PendingOperation pending("split", name_);
  MPI_Comm group = MPI_COMM_NULL;
  check(MPI_Comm_split(comm_, color, key, &group), "split", name_);
  return inherit_nodes(make_group(group, /*owned=*/true, name));
}

std::unique_ptr<Communicator> MpiCommunicator::split_by_memory(const std::string& name) {
  const PendingOperation pending("split", name_);
  MPI_Comm group = MPI_COMM_NULL;
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

PendingOperation::PendingOperation(const char* operation, const std::string& group) {
  pending_group.store(group.c_str(), std::memory_order_relaxed);
  pending_name.store(operation, std::memory_order_release);
}

PendingOperation::~PendingOperation() { pending_name.store(nullptr, std::memory_order_release); }

void start(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) fail("MPI does not start");
  if (provided < MPI_THREAD_FUNNELED) {
    fail("this MPI ({}) does not allow a process with threads: MPI_THREAD_FUNNELED is needed",
         library_version());
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}

void finish() noexcept { MPI_Finalize(); }

void abort(int exit_code) noexcept {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::unique_ptr<Communicator> make_world() { return make_group(MPI_COMM_WORLD, /*owned=*/false, "world"); }

std::string library_version() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find_first_of(",\n"));
}

}  // namespace mpi

std::string pending_operation() {
  const char* name = mpi::pending_name.load(std::memory_order_acquire);
  const char* group = mpi::pending_group.load(std::memory_order_relaxed);
  return name == nullptr ? std::string() : fmt::format("{} of the group {}", name, group);
}

}  // namespace xmoe
