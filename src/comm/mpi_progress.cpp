#include "comm/mpi_progress.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "comm/communicator.h"
#include "comm/mpi_common.h"
#include "comm/mpi_wait.h"

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

}  // namespace

void prepare_progress(bool thread_multiple) {
  // Where ranks outnumber cores, looks are rarer by as much, so that together they cost the same share.
  progress = std::make_unique<Progress>(thread_multiple, kInterval * ranks_per_core());
}

void progress_needed() { progress->needed(); }
void progress_not_needed() { progress->not_needed(); }
void stop_progress() noexcept { progress.reset(); }

}  // namespace mpi

bool asynchronous_progress() { return mpi::progress != nullptr && mpi::progress->possible(); }

}  // namespace xmoe
