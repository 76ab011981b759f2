// The named groups of ranks that a parallel layout consists of. With tp ranks of tensor parallelism, W ranks
// in all and ep ranks that together hold all experts:
//
//   world    all ranks; rank = dp index * tp + tp index
//   tp       tensor parallel: consecutive ranks that share the matrices of attention and dense layers, and
//            the tokens of a micro-batch: between blocks each holds 1 / tp of its rows
//   dp       data parallel: ranks of the same tp index; each tp group reads its own samples
//   ep       expert parallel: ranks that together hold all experts; tokens travel within it
//   edp      expert data parallel: ranks that hold the same part of the experts; their gradients are summed
//   ep_node  the ranks of this rank's ep group that are on its node
//
// MoE blocks work on the rows that a rank holds between blocks (sequence-sharded MoE blocks), so ep groups
// span tp and dp alike. With expert tensor parallelism (TED) the experts' matrices are cut over tp as well:
// then an ep group consists of ranks of one tp index, and ep divides dp.
//
// Placement: ep_first, an ep group is a run of consecutive ranks (of one tp index under TED), so that it
// fills nodes and gradients of experts cross them; dp_first, the replicas of an expert are consecutive, so
// that tokens cross.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace xmoe {

enum class ExpertPlacement : std::uint8_t { ep_first, dp_first };

struct ParallelLayout {
  std::int64_t tensor = 1;                                // --tensor-model-parallel-size
  std::int64_t expert = 1;                                // --expert-model-parallel-size
  bool expert_tensor = false;                             // --enable-expert-tensor-parallelism
  ExpertPlacement placement = ExpertPlacement::ep_first;  // --expert-placement
};

class Mesh {
 public:
  // Collective. Throws Error (on all ranks alike) when the layout does not fit the world.
  Mesh(Communicator& world, const ParallelLayout& layout);
  Mesh(Communicator& world, int expert_parallel_size)
      : Mesh(world, ParallelLayout{.expert = expert_parallel_size}) {}

  const ParallelLayout& layout() const { return layout_; }
  Communicator& world() const { return world_; }
  Communicator& tp() const { return *tp_; }
  Communicator& dp() const { return *dp_; }
  Communicator& ep() const { return *ep_; }
  Communicator& edp() const { return *edp_; }
  Communicator& ep_node() const { return *ep_node_; }

 private:
  Communicator& world_;
  ParallelLayout layout_;
  std::unique_ptr<Communicator> tp_, dp_, ep_, edp_, ep_node_;
};

// The ep group and the edp group of a rank, as numbers that are equal on ranks of one group.
struct ExpertGroups {
  int ep = 0;
  int edp = 0;
};
ExpertGroups expert_groups(const ParallelLayout& layout, int world_size, int rank);

// What keeps a layout from fitting, and what would fit; empty when it fits.
std::string layout_problem(const ParallelLayout& layout, int world_size);

// What divides n, as a text for messages: "1, 2, 4".
std::string divisors(std::int64_t n);

}  // namespace xmoe
