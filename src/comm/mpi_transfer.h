// Point-to-point messages that together make up a collective under way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "comm/communicator.h"
#include "comm/mpi_common.h"

namespace xmoe::mpi {

// Memory that transfers bring along. They end in any order, so that each has an arena of its own, which the
// next one takes over: in a steady state nothing is allocated.
class TransferBuffers {
 public:
  Arena& take(std::size_t bytes);  // an empty one; the smallest that has room, else the largest
  void give_back(Arena& arena);
  void list(std::vector<const Arena*>& arenas) const;

 private:
  struct Buffer {
    std::unique_ptr<Arena> arena;
    bool taken = false;
  };
  std::vector<Buffer> buffers_;
};

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
