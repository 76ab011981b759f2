#include "comm/mpi_transfer.h"

#include "base/error.h"
#include "base/log.h"
#include "comm/mpi_progress.h"
#include "comm/pending.h"
#include "comm/reduction.h"

namespace xmoe::mpi {

Arena& TransferBuffers::take(std::size_t bytes) {
  Buffer* best = nullptr;
  for (Buffer& b : buffers_) {
    if (b.taken) continue;
    const auto better = [&](std::size_t size, std::size_t than) {
      return than >= bytes ? size >= bytes && size < than : size > than;
    };
    if (best == nullptr || better(b.arena->reserved(), best->arena->reserved())) best = &b;
  }
  if (best == nullptr) {
    buffers_.push_back({std::make_unique<Arena>(Device{}, MemoryTag::communication), false});
    best = &buffers_.back();
  }
  best->taken = true;
  return *best->arena;
}

void TransferBuffers::give_back(Arena& arena) {
  arena.clear();
  for (Buffer& b : buffers_)
    if (b.arena.get() == &arena) b.taken = false;
}

void TransferBuffers::list(std::vector<const Arena*>& arenas) const {
  for (const Buffer& b : buffers_) arenas.push_back(b.arena.get());
}

MpiTransfer::MpiTransfer(const char* operation, const std::string& group, TransferBuffers& buffers)
    : operation_(operation), group_(group), buffers_(buffers) {}

MpiTransfer::~MpiTransfer() {
  try {
    wait();
  } catch (const std::exception& error) {
    log::error("{}", error.what());
  }
}

void MpiTransfer::receive(void* data, std::int64_t count, MPI_Datatype type, int from, int tag,
                          MPI_Comm comm) {
  requests_.push_back(MPI_REQUEST_NULL);
  check(MPI_Irecv(data, to_count(count, operation_), type, from, tag, comm, &requests_.back()), operation_,
        group_);
}

void MpiTransfer::send(const void* data, std::int64_t count, MPI_Datatype type, int to, int tag,
                       MPI_Comm comm) {
  requests_.push_back(MPI_REQUEST_NULL);
  check(MPI_Isend(data, to_count(count, operation_), type, to, tag, comm, &requests_.back()), operation_,
        group_);
}

void* MpiTransfer::allocate(std::size_t bytes) {
  if (memory_ == nullptr) memory_ = &buffers_.take(bytes);
  return memory_->allocate(bytes);
}

void MpiTransfer::then_sum(DType dtype, const void* parts, int ranks, std::int64_t n, void* out) {
  sum_ = {dtype, parts, ranks, n, out};
}

void MpiTransfer::leave_to_progress() {
  if (requests_.empty()) return;
  progress_needed();
  driven_ = true;
}

void MpiTransfer::wait() {
  if (driven_) progress_not_needed();  // MPI_Waitall drives the messages itself
  driven_ = false;
  if (!requests_.empty()) {
    const PendingScope pending(operation_, group_);
    std::vector<MPI_Request> requests;
    requests.swap(requests_);
    check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE), operation_,
          group_);
  }
  if (sum_.n > 0) reduce_parts(ReduceOp::sum, sum_.dtype, sum_.parts, sum_.ranks, sum_.n, sum_.out);
  sum_ = {};
  if (memory_ != nullptr) buffers_.give_back(*memory_);
  memory_ = nullptr;
}

}  // namespace xmoe::mpi
