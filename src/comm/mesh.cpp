#include "comm/mesh.h"

#include <algorithm>

#include "base/error.h"

namespace xmoe {

std::string divisors(std::int64_t n) {
  std::string text;
  for (std::int64_t d = 1; d <= n; ++d)
    if (n % d == 0) text += (text.empty() ? "" : ", ") + std::to_string(d);
  return text;
}

std::string layout_problem(const ParallelLayout& layout, int world_size) {
  if (layout.tensor < 1 || world_size % layout.tensor != 0)
    return fmt::format(
        "--tensor-model-parallel-size {} does not divide the number of ranks, {}: what fits is {}; or start "
        "another number of ranks",
        layout.tensor, world_size, divisors(world_size));
  const std::int64_t holders = layout.expert_tensor ? world_size / layout.tensor : world_size;
  if (layout.expert < 1 || holders % layout.expert != 0)
    return fmt::format(
        "--expert-model-parallel-size {} does not divide the number of {}, {}: what fits is {}; or start "
        "another number of ranks",
        layout.expert,
        layout.expert_tensor ? "data-parallel ranks, within which --enable-expert-tensor-parallelism puts it"
                             : "ranks",
        holders, divisors(holders));
  return {};
}

ExpertGroups expert_groups(const ParallelLayout& layout, int world_size, int rank) {
  // Under TED each tp index has groups of its own, among the ranks that hold the same columns of experts.
  const int planes = layout.expert_tensor ? static_cast<int>(layout.tensor) : 1;
  const int size = static_cast<int>(layout.expert);
  const int plane = rank % planes;
  const int place = rank / planes;  // among the ranks of the plane
  const int replicas = world_size / planes / size;
  const bool ep_first = layout.placement == ExpertPlacement::ep_first;
  const int ep = ep_first ? place / size : place % replicas;
  const int edp = ep_first ? place % size : place / replicas;
  return {.ep = ep * planes + plane, .edp = edp * planes + plane};
}

Mesh::Mesh(Communicator& world, const ParallelLayout& layout) : world_(world), layout_(layout) {
  const std::string problem = layout_problem(layout, world.size());
  if (!problem.empty()) fail_everywhere("{}", problem);
  const int rank = world.rank();
  const int tensor = static_cast<int>(layout.tensor);
  const ExpertGroups groups = expert_groups(layout, world.size(), rank);
  tp_ = world.split(rank / tensor, rank, "tp");
  dp_ = world.split(rank % tensor, rank, "dp");
  ep_ = world.split(groups.ep, rank, "ep");
  edp_ = world.split(groups.edp, rank, "edp");
  const auto nodes = ep_->nodes();
  ep_node_ = ep_->split(nodes.empty() ? 0 : nodes[static_cast<std::size_t>(ep_->rank())], rank, "ep_node");
}

}  // namespace xmoe
