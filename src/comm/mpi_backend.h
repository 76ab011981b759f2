// The message layer of MPI, without its header: only the files mpi_*.cpp include mpi.h.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace xmoe::mpi {

// MPI_Init_thread: one thread communicates; where MPI allows it, a second one drives messages under way.
void start(int* argc, char*** argv);
void finish() noexcept;
// Ends all ranks; where MPI has not been started, this process, whose launcher or peers end the others.
[[noreturn]] void abort(int exit_code) noexcept;
std::unique_ptr<Communicator> make_world();
std::string library_version();

}  // namespace xmoe::mpi
