// The named groups of ranks that a parallel layout consists of.
//
//   world   all ranks; every rank is one data-parallel worker (dp = world)
//   ep      expert parallel: ranks that together hold all experts, each E / ep of them; tokens travel
//           within it
//   edp     expert data parallel: ranks that hold the same experts; their gradients are summed within it
//
// Placement ep_first (the default): an ep group is a run of consecutive ranks, so that it fills nodes.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace xmoe {

class Mesh {
 public:
  // Throws Error (on all ranks alike) when the expert-parallel size does not divide the world.
  Mesh(Communicator& world, int expert_parallel_size);

  Communicator& world() const { return world_; }
  Communicator& dp() const { return world_; }
  Communicator& ep() const { return *ep_; }
  Communicator& edp() const { return *edp_; }

 private:
  Communicator& world_;
  std::unique_ptr<Communicator> ep_;
  std::unique_ptr<Communicator> edp_;
};

}  // namespace xmoe
