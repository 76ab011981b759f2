// Messages that together make up a collective under way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "comm/communicator.h"
#include "comm/tcp_links.h"
#include "comm/transfer_buffers.h"

namespace xmoe::tcp {

class TcpTransfer final : public Transfer {
 public:
  // All of these must outlive the transfer.
  TcpTransfer(const char* operation, const std::string& group, Links& links, TransferBuffers& buffers)
      : operation_(operation), group_(group), links_(links), buffers_(buffers) {}
  ~TcpTransfer() override;
  TcpTransfer(const TcpTransfer&) = delete;
  TcpTransfer& operator=(const TcpTransfer&) = delete;

  void add(const Ticket& ticket) { tickets_.push_back(ticket); }
  // Memory until the end of the transfer.
  void* allocate(std::size_t bytes);
  // Has wait() put the sum of `ranks` parts of n elements, in order, into `out`.
  void then_sum(DType dtype, const void* parts, int ranks, std::int64_t n, void* out);

  void progress();  // moves what can be moved at once
  void wait() override;

 private:
  struct Sum {
    DType dtype = DType::f32;
    const void* parts = nullptr;
    int ranks = 0;
    std::int64_t n = 0;
    void* out = nullptr;
  };

  const char* operation_;
  const std::string& group_;
  Links& links_;
  TransferBuffers& buffers_;
  std::vector<Ticket> tickets_;
  Arena* memory_ = nullptr;
  Sum sum_;
  int exceptions_ = std::uncaught_exceptions();  // under way when this began
};

}  // namespace xmoe::tcp
