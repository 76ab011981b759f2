#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "comm/communicator.h"
#include "comm/mpi_backend.h"
#include "comm/tcp_backend.h"

namespace xmoe {

namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

// Whether this process is one of those that an MPI launcher started. MPI_Init without a launcher works too,
// but costs a newcomer's first run half a second and, on machines where MPI is half set up, its success.
bool launched_by_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "PMIX_RANK"}) {
    if (!environment(name).empty()) return true;
  }
  return !environment("SLURM_PROCID").empty() && environment("SLURM_MPI_TYPE").starts_with("pmi");
}

// Processes that the launcher says it started; 0 when it does not say.
int launched_processes() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const int size = std::atoi(std::string(environment(name)).c_str());
    if (size > 0) return size;
  }
  return 0;
}

// Whether torchrun, or a script that speaks like it, started this process. torchrun's own word counts for
// more than what an MPI launcher says, which may have started torchrun; that of a script, which may stand in
// the environment for other programs, for less.
bool launched_by_torchrun() {
  const auto get = [](const char* name) { return std::string(environment(name)); };
  return tcp::launched(get) && (!environment("TORCHELASTIC_RUN_ID").empty() || !launched_by_mpi());
}

}  // namespace

CommunicationSession::CommunicationSession(int* argc, char*** argv) {
  if (launched_by_torchrun()) {
    layer_ = Layer::tcp;
    world_ = tcp::start(tcp::read_launch([](const char* name) { return std::string(environment(name)); }));
  } else if (launched_by_mpi()) {
    mpi::start(argc, argv);
    layer_ = Layer::mpi;
    world_ = mpi::make_world();
    const int expected = launched_processes();
    if (expected > 1 && world_->size() == 1) {
      fail(
          "the launcher started {} processes, but MPI connects only one: the launcher belongs to another MPI "
          "than the one this program was built with ({}); use that one's mpirun, or srun --mpi=pmix",
          expected, mpi::library_version());
    }
  } else {
    // A batch script itself runs as task 0; only srun numbers tasks further.
    const auto task = environment("SLURM_PROCID");
    if (!task.empty() && task != "0") {
      fail(
          "this is task {} of a Slurm step without MPI: every task would train alone and write over the "
          "others; use srun --mpi=pmix, mpirun or torchrun",
          task);
    }
    world_ = make_self_communicator();
  }
  log::set_rank(world_->rank(), world_->size());
}

CommunicationSession::~CommunicationSession() {
  world_.reset();
  if (layer_ == Layer::mpi) mpi::finish();
  if (layer_ == Layer::tcp) tcp::finish();
}

void CommunicationSession::abort(int exit_code) {
  if (layer_ == Layer::mpi) mpi::abort(exit_code);
  if (layer_ == Layer::tcp) tcp::abort(exit_code);
  std::_Exit(exit_code);
}

}  // namespace xmoe
