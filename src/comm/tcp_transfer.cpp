#include "comm/tcp_transfer.h"

#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/pending.h"
#include "comm/reduction.h"

namespace xmoe::tcp {

namespace {

// What messages get to arrive when an error unwinds. They do so by themselves if the other ranks are well,
// since they start the same; without end, nobody would read what the error was.
constexpr std::chrono::milliseconds kGrace(3000);

}  // namespace

TcpTransfer::~TcpTransfer() {
  try {
    if (std::uncaught_exceptions() == exceptions_) {
      wait();
    } else if (!links_.wait_for(kGrace, tickets_)) {
      links_.stop();  // what is under way names memory that goes now
    }
  } catch (const std::exception& error) {
    log::error("{}", error.what());
  }
}

void* TcpTransfer::allocate(std::size_t bytes) {
  if (memory_ == nullptr) memory_ = &buffers_.take(bytes);
  return memory_->allocate(bytes);
}

void TcpTransfer::then_sum(DType dtype, const void* parts, int ranks, std::int64_t n, void* out) {
  sum_ = {dtype, parts, ranks, n, out};
}

void TcpTransfer::progress() {
  const PendingScope pending(operation_, group_);
  links_.progress();
}

void TcpTransfer::wait() {
  // Should this fail, nothing is left to be done by a second call.
  const auto tickets = std::exchange(tickets_, {});
  const Sum sum = std::exchange(sum_, {});
  Arena* memory = std::exchange(memory_, nullptr);
  if (!tickets.empty()) {
    const PendingScope pending(operation_, group_);
    links_.wait(tickets);
  }
  if (sum.n > 0) reduce_parts(ReduceOp::sum, sum.dtype, sum.parts, sum.ranks, sum.n, sum.out);
  if (memory != nullptr) buffers_.give_back(*memory);
}

}  // namespace xmoe::tcp
