// Messages under way while the caller computes. Most MPI libraries move bytes only inside their functions;
// a thread of the process calls one of them from time to time while a transfer is under way that nobody
// waits for, and sleeps otherwise. It touches no request of the caller. Needs MPI_THREAD_MULTIPLE; with less,
// messages advance whenever the caller is in MPI.
#pragma once

namespace xmoe::mpi {

// Called once, after count_ranks_per_core().
void prepare_progress(bool thread_multiple);

// Around the time in which a transfer is under way and its owner is not in wait(). Cheap.
void progress_needed();
void progress_not_needed();

void stop_progress() noexcept;  // before MPI ends

}  // namespace xmoe::mpi
