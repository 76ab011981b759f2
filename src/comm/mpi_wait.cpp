#include "comm/mpi_wait.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/hash.h"
#include "comm/mpi_common.h"

namespace xmoe::mpi {

namespace {

// Others are let run at once while what is waited for is likely to be near; then sleeps grow to the longest.
constexpr int kYields = 8;
constexpr std::chrono::microseconds kShortest(10);
constexpr std::chrono::microseconds kLongest(200);

int per_core = 1;

// Between two looks.
class Pause {
 public:
  void operator()() {
    if (++looks_ <= kYields) {
      std::this_thread::yield();
      return;
    }
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min(2 * sleep_, kLongest);
  }

 private:
  int looks_ = 0;
  std::chrono::microseconds sleep_ = kShortest;
};

int test_all(std::span<MPI_Request> requests, bool& done) {
  int flag = 0;
  const int code =
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &flag, MPI_STATUSES_IGNORE);
  done = flag != 0;
  return code;
}

// Ranks that run on this kernel, in containers and network namespaces too: they share its cores.
int ranks_on_this_kernel() {
  std::string id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
  const std::uint64_t mine = hash64(id);
  int size = 0;
  check(MPI_Comm_size(MPI_COMM_WORLD, &size), "the query of the size", "world");
  std::vector<std::uint64_t> all(static_cast<std::size_t>(size));
  check(MPI_Allgather(&mine, 1, MPI_UINT64_T, all.data(), 1, MPI_UINT64_T, MPI_COMM_WORLD),
        "counting the ranks of this machine", "world");
  return static_cast<int>(std::count(all.begin(), all.end(), mine));
}

}  // namespace

void count_ranks_per_core() {
  const int cores = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  const int here = (ranks_on_this_kernel() + cores - 1) / cores;
  // All ranks must agree: a collective's two forms do not match each other (collective()), and meet() is one.
  check(MPI_Allreduce(&here, &per_core, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD), "counting ranks per core",
        "world");
}

int ranks_per_core() { return per_core; }

int wait_all(std::span<MPI_Request> requests) {
  if (per_core == 1)
    return MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  Pause pause;
  for (;;) {
    bool done = false;
    const int code = test_all(requests, done);
    if (code != MPI_SUCCESS || done) return code;
    pause();
  }
}

bool wait_all_for(std::chrono::milliseconds time, std::span<MPI_Request> requests) {
  const auto end = std::chrono::steady_clock::now() + time;
  Pause pause;
  while (std::chrono::steady_clock::now() < end) {
    bool done = false;
    if (test_all(requests, done) != MPI_SUCCESS) return false;
    if (done) return true;
    pause();
  }
  return false;
}

int meet(MPI_Comm comm) {
  if (per_core == 1) return MPI_SUCCESS;
  MPI_Request all_here = MPI_REQUEST_NULL;
  const int code = MPI_Ibarrier(comm, &all_here);
  return code != MPI_SUCCESS ? code : wait_all({&all_here, 1});
}

}  // namespace xmoe::mpi
