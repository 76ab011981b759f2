#include "comm/mpi_transfer.h"

#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/mpi_progress.h"
#include "comm/mpi_wait.h"
#include "comm/pending.h"
#include "comm/reduction.h"

namespace xmoe::mpi {

namespace {

// What messages get to arrive when an error unwinds.
constexpr std::chrono::milliseconds kGrace(3000);

}  // namespace

MpiTransfer::MpiTransfer(const char* operation, const std::string& group, TransferBuffers& buffers)
    : operation_(operation), group_(group), buffers_(buffers) {}

MpiTransfer::~MpiTransfer() {
  try {
    if (std::uncaught_exceptions() > exceptions_) {
      give_up();
    } else {
      wait();
    }
  } catch (const std::exception& error) {
    log::error("{}", error.what());
  }
}

// An error unwinds. What was started ends by itself if the other ranks are well, since they start the same;
// it must not be waited for without end, or nobody would read what the error was.
void MpiTransfer::give_up() noexcept {
  if (driven_) progress_not_needed();
  if (!requests_.empty() && !wait_all_for(kGrace, requests_))
    log::error("an error ends this rank while {} of the group {} is under way", operation_, group_);
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
  if (driven_) progress_not_needed();  // wait_all() drives the messages itself
  driven_ = false;
  // Should MPI fail, nothing is left to be done by a second call, and the memory stays taken: MPI may still
  // write to it.
  auto requests = std::exchange(requests_, {});
  const Sum sum = std::exchange(sum_, {});
  Arena* memory = std::exchange(memory_, nullptr);
  if (!requests.empty()) {
    const PendingScope pending(operation_, group_);
    check(wait_all(requests), operation_, group_);
  }
  if (sum.n > 0) reduce_parts(ReduceOp::sum, sum.dtype, sum.parts, sum.ranks, sum.n, sum.out);
  if (memory != nullptr) buffers_.give_back(*memory);
}

}  // namespace xmoe::mpi
