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

Shape Sharding::local_shape(const Shape& global) const {
  Shape local = global;
  for (int axis = 0; axis < global.rank(); ++axis) {
    const auto& ranges = axes[static_cast<std::size_t>(axis)];
    if (ranges.empty()) continue;
    local[axis] = 0;
    for (const AxisRange& r : ranges) local[axis] += r.size;
  }
  return local;
}

Sharding::Run Sharding::run_at(const Shape& global, std::int64_t local) const {
  const Shape shape = local_shape(global);
  Run run{0, 1};
  std::int64_t stride = 1;  // of the axis in the global tensor
  for (int axis = global.rank() - 1; axis >= 0; --axis) {
    std::int64_t at = local % shape[axis];
    local /= shape[axis];
    std::int64_t left = shape[axis] - at;
    for (const AxisRange& r : axes[static_cast<std::size_t>(axis)]) {
      if (at < r.size) {
        left = r.size - at;
        at += r.begin;
        break;
      }
      at -= r.size;
    }
    if (axis == global.rank() - 1) run.count = left;
    run.index += at * stride;
    stride *= global[axis];
  }
  return run;
}

AxisRange equal_part(const AxisRange& whole, std::int64_t index, std::int64_t parts) {
  XMOE_CHECK(whole.size % parts == 0, "{} do not divide into {} equal parts", whole.size, parts);
  const std::int64_t size = whole.size / parts;
  return {whole.begin + index * size, size};
}

}  // namespace xmoe
