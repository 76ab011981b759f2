#include "comm/mesh.h"

#include "base/error.h"

namespace xmoe {

Mesh::Mesh(Communicator& world, int expert_parallel_size) : world_(world) {
  if (expert_parallel_size < 1 || world.size() % expert_parallel_size != 0) {
    fail_everywhere(
        "--expert-model-parallel-size {} does not divide the number of ranks, {}: choose a divisor of {}, or "
        "start another number of ranks",
        expert_parallel_size, world.size(), world.size());
  }
  ep_ = world.split(world.rank() / expert_parallel_size, world.rank(), "ep");
  edp_ = world.split(world.rank() % expert_parallel_size, world.rank(), "edp");
}

}  // namespace xmoe
