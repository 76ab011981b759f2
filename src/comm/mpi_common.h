// What the files of the MPI backend share; they alone include mpi.h.
#pragma once

// The C interface only: MPI's retired C++ bindings would have to be linked.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <cstdint>
#include <string>

namespace xmoe::mpi {

// Throws Error naming the operation and the group when an MPI function did not succeed.
void check(int code, const char* operation, const std::string& group);

// An argument of MPI, which counts in int.
int to_count(std::int64_t n, const char* operation);

}  // namespace xmoe::mpi
