#include "comm/mpi_progress.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "base/hash.h"
#include "comm/communicator.h"
#include "comm/mpi_common.h"

namespace xmoe {

namespace mpi {

namespace {

// How long the thread sleeps between two looks. A look costs a microsecond and two switches of context, a few
// percent of a core; a pipelined message of Open MPI moves some hundred KiB at a look.
constexpr std::chrono::microseconds kInterval(50);

class Progress {
 public:
  Progress(bool thread_multiple, std::chrono::microseconds interval)
      : possible_(thread_multiple), interval_(interval) {}
  ~Progress() {
    if (!thread_.joinable()) return;
    stop_.store(true);
    under_way_.fetch_add(1);
    under_way_.notify_one();
    thread_.join();
    MPI_Comm_free(&own_);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  bool possible() const { return possible_; }

  void needed() {
    if (!possible_) return;
    if (!thread_.joinable()) {
      check(MPI_Comm_dup(MPI_COMM_SELF, &own_), "starting the progress thread", "self");
      thread_ = std::thread([this] { drive(); });
    }
    if (under_way_.fetch_add(1) == 0) under_way_.notify_one();
  }
  void not_needed() {
    if (possible_) under_way_.fetch_sub(1);
  }

 private:
  void drive() {
    while (!stop_.load()) {
      under_way_.wait(0);
      // Asking for a message that nobody sends: the cheapest call that drives MPI's engine.
      int arrived = 0;
      MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, own_, &arrived, MPI_STATUS_IGNORE);
      std::this_thread::sleep_for(interval_);
    }
  }

  bool possible_;
  std::chrono::microseconds interval_;
  MPI_Comm own_ = MPI_COMM_NULL;
  std::atomic<int> under_way_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

std::unique_ptr<Progress> progress;

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

void prepare_progress(bool thread_multiple) {
  // Where ranks outnumber cores, looks are rarer by as much, so that together they cost the same share.
  const long cores = std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN));
  const long share = (ranks_on_this_kernel() + cores - 1) / cores;
  progress = std::make_unique<Progress>(thread_multiple, kInterval * share);
}

void progress_needed() { progress->needed(); }
void progress_not_needed() { progress->not_needed(); }
void stop_progress() noexcept { progress.reset(); }

}  // namespace mpi

bool asynchronous_progress() { return mpi::progress != nullptr && mpi::progress->possible(); }

}  // namespace xmoe
