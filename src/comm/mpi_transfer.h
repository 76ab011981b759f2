// Point-to-point messages that together make up a collective under way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "comm/communicator.h"
#include "comm/mpi_common.h"
#include "comm/transfer_buffers.h"

namespace xmoe::mpi {

class MpiTransfer final : public Transfer {
 public:
  // The name and the buffers of the group must outlive the transfer.
  MpiTransfer(const char* operation, const std::string& group, TransferBuffers& buffers);
  ~MpiTransfer() override;
  MpiTransfer(const MpiTransfer&) = delete;
  MpiTransfer& operator=(const MpiTransfer&) = delete;

  void receive(void* data, std::int64_t count, MPI_Datatype type, int from, int tag, MPI_Comm comm);
  void send(const void* data, std::int64_t count, MPI_Datatype type, int to, int tag, MPI_Comm comm);
  // Memory until the end of the transfer.
  void* allocate(std::size_t bytes);
  // Has wait() put the sum of `ranks` parts of n elements, in order, into `out`.
  void then_sum(DType dtype, const void* parts, int ranks, std::int64_t n, void* out);
  // From now on messages advance without the caller.
  void leave_to_progress();

  void wait() override;

 private:
  void give_up() noexcept;

  struct Sum {
    DType dtype = DType::f32;
    const void* parts = nullptr;
    int ranks = 0;
    std::int64_t n = 0;
    void* out = nullptr;
  };

  const char* operation_;
  const std::string& group_;
  TransferBuffers& buffers_;
  std::vector<MPI_Request> requests_;
  Arena* memory_ = nullptr;
  Sum sum_;
  bool driven_ = false;
  int exceptions_ = std::uncaught_exceptions();  // under way when this began
};

}  // namespace xmoe::mpi
