// Start and end of MPI.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "comm/mpi_backend.h"
#include "comm/mpi_common.h"
#include "comm/mpi_progress.h"
#include "comm/mpi_wait.h"

namespace xmoe::mpi {

namespace {

// What the other ranks get to end after this one.
constexpr std::chrono::seconds kLongestEnd(120);

}  // namespace

void check(int code, const char* operation, const std::string& group) {
  if (code == MPI_SUCCESS) return;
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  fail("MPI failed in {} of the group {}: {}", operation, group, text);
}

int to_count(std::int64_t n, const char* operation) {
  XMOE_CHECK(n <= std::numeric_limits<int>::max(), "{}: {} rows are more than MPI can count", operation, n);
  return static_cast<int>(n);
}

void start(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) fail("MPI does not start");
  if (provided < MPI_THREAD_FUNNELED) {
    fail("this MPI ({}) does not allow a process with threads: MPI_THREAD_FUNNELED is needed",
         library_version());
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  count_ranks_per_core();
  prepare_progress(provided == MPI_THREAD_MULTIPLE);
}

void finish() noexcept {
  stop_progress();
  // MPI_Finalize waits for the other ranks. One that hangs, or left the common order of collectives, would
  // keep the job from ending, and nobody would know.
  std::thread([] {
    std::this_thread::sleep_for(kLongestEnd);
    constexpr std::string_view kText = "xmoe: still waiting in MPI_Finalize: another rank does not end\n";
    std::fwrite(kText.data(), 1, kText.size(), stderr);
    std::_Exit(1);
  }).detach();
  MPI_Finalize();
}

void abort(int exit_code) noexcept {
  int started = 0;
  MPI_Initialized(&started);
  if (started != 0) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::string library_version() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find_first_of(",\n"));
}

}  // namespace xmoe::mpi
