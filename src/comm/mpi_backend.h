// The message layer of MPI, without its header: mpi_communicator.cpp is the only file that includes mpi.h.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace xmoe::mpi {

void start(int* argc, char*** argv);  // MPI_Init for one thread that communicates
void finish() noexcept;
[[noreturn]] void abort(int exit_code) noexcept;
std::unique_ptr<Communicator> make_world();
std::string library_version();

// Notes the collective that this process is in, for pending_operation().
class PendingOperation {
 public:
  PendingOperation(const char* operation, const std::string& group);
  ~PendingOperation();
  PendingOperation(const PendingOperation&) = delete;
  PendingOperation& operator=(const PendingOperation&) = delete;
};

}  // namespace xmoe::mpi
