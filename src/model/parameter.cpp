#include "model/parameter.h"

namespace xmoe {

Communicator& replicas(const Mesh& mesh, Replication replication) {
  switch (replication) {
    case Replication::tensor:
      return mesh.dp();
    case Replication::expert:
      return mesh.edp();
    case Replication::all:
      break;
  }
  return mesh.world();
}

Placement placement_of(const Mesh& mesh) {
  Placement p = {.tensor_rank = mesh.tp().rank(),
                 .tensor_size = mesh.tp().size(),
                 .expert_rank = mesh.ep().rank(),
                 .expert_size = mesh.ep().size(),
                 .expert_tensor = mesh.layout().expert_tensor};
  for (std::size_t r = 0; r < p.replicas.size(); ++r)
    p.replicas[r] = replicas(mesh, static_cast<Replication>(r)).size();
  return p;
}

Placement placement_of(const ParallelLayout& layout, int world_size) {
  const auto tensor = static_cast<int>(layout.tensor);
  const int holders = layout.expert_tensor ? world_size / tensor : world_size;
  return {.tensor_size = layout.tensor,
          .expert_size = layout.expert,
          .expert_tensor = layout.expert_tensor,
          .replicas = {world_size, world_size / tensor, holders / static_cast<int>(layout.expert)}};
}

}  // namespace xmoe
