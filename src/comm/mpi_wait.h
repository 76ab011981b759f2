// Waiting for other ranks. MPI itself waits by spinning, which is the fastest where each rank has a core.
// Where ranks outnumber cores (a laptop, tests, an emulated cluster) it takes the cores from the very ranks
// that are waited for; there the process sleeps between its looks.
#pragma once

#include <chrono>
#include <span>

#include "comm/mpi_common.h"

namespace xmoe::mpi {

// Called once, after MPI has started; collective over the ranks of the job.
void count_ranks_per_core();
// Ranks that run on a machine over its cores, rounded up, on the machine where they are most: 1 where each
// rank has a core. The same on all ranks.
int ranks_per_core();

// Until all have completed. Returns MPI's code.
int wait_all(std::span<MPI_Request> requests);
// The same, but gives up after `time`: whether all have completed.
bool wait_all_for(std::chrono::milliseconds time, std::span<MPI_Request> requests);

// A collective of MPI, by its two forms: collective(MPI_Bcast, MPI_Ibcast, data, count, ...). Where each rank
// has a core the one that blocks, which is the faster; else the other, and wait_all(). Returns MPI's code.
template <typename Blocking, typename Start, typename... Arguments>
int collective(Blocking blocking, Start start, Arguments... arguments) {
  if (ranks_per_core() == 1) return blocking(arguments...);
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = start(arguments..., &request);
  return code != MPI_SUCCESS ? code : wait_all({&request, 1});
}

// Before one that has only the form that blocks: where ranks share cores, sleeps until all ranks of the group
// have come, so that the collective finds everyone. Elsewhere nothing. Returns MPI's code.
int meet(MPI_Comm comm);

}  // namespace xmoe::mpi
