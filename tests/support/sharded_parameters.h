// Parameters as a model would declare them on any layout, without the model: matrices cut over tensor- and
// expert-parallel ranks along every axis, in one range or several, with sizes that are no multiples of
// anything.
#pragma once

#include <string>

#include "comm/mesh.h"
#include "model/parameter_set.h"

namespace xmoe::test {

class ShardedParameters {
 public:
  explicit ShardedParameters(const Mesh& mesh, DType dtype, std::uint64_t seed = 7)
      : mesh_(mesh), dtype_(dtype) {
    const bool ted = mesh.layout().expert_tensor;
    add("embedding.weight", {24, 3}, over_tensor(0, {24}), Replication::tensor, 0);
    for (int layer = 0; layer < 2; ++layer) {
      const std::string prefix = "layers." + std::to_string(layer) + ".";
      const int stage = 1 + layer;
      add(prefix + "norm", {7}, {}, Replication::all, stage);
      // Rows of queries, keys and values.
      add(prefix + "qkv", {20, 5}, over_tensor(0, {12, 4, 4}), Replication::tensor, stage);
      add(prefix + "out", {5, 12}, over_tensor(1, {12}), Replication::tensor, stage);
      router(prefix + "router", stage);
      // Gate rows, then up rows.
      add(prefix + "experts.w1", {8, 24, 3}, over_experts(ted ? over_tensor(1, {12, 12}) : Sharding{}),
          Replication::expert, stage);
      add(prefix + "experts.w2", {8, 3, 12}, over_experts(ted ? over_tensor(2, {12}) : Sharding{}),
          Replication::expert, stage);
    }
    add("final_norm", {7}, {}, Replication::all, 3);
    set.allocate(values_, &gradients_, mesh, seed);
  }

  ParameterSet set;

 private:
  Sharding over_tensor(int axis, std::initializer_list<std::int64_t> blocks) const {
    Sharding sharding;
    std::int64_t begin = 0;
    for (const std::int64_t size : blocks) {
      sharding.axes[static_cast<std::size_t>(axis)].push_back(
          equal_part({begin, size}, mesh_.tp().rank(), mesh_.tp().size()));
      begin += size;
    }
    return sharding;
  }
  Sharding over_experts(Sharding sharding) const {
    sharding.axes[0] = {equal_part({0, 8}, mesh_.ep().rank(), mesh_.ep().size())};
    return sharding;
  }
  void add(const std::string& name, const Shape& shape, const Sharding& sharding, Replication replication,
           int stage) {
    set.declare({.name = name,
                 .global_shape = shape,
                 .sharding = sharding,
                 .replication = replication,
                 .dtype = dtype_,
                 .init_std = 1.0,
                 .decay = shape.rank() > 1,
                 .stage = stage});
  }
  void router(const std::string& name, int stage) {
    set.declare({.name = name + ".weight", .global_shape = {8, 5}, .init_std = 1.0, .stage = stage});
    set.declare({.name = name + ".bias",
                 .global_shape = {8},
                 .init_std = 1.0,
                 .decay = false,
                 .trainable = false,
                 .stage = stage});
  }

  const Mesh& mesh_;
  DType dtype_;
  Arena values_{{}, MemoryTag::parameters};
  Arena gradients_{{}, MemoryTag::gradients};
};

// A layout, and whether the optimizer is cut over replicas on it.
struct Layout {
  ParallelLayout parallel;
  std::int64_t zero_stage = 0;
};

inline std::string to_string(const Layout& l) {
  return fmt::format("tp {} ep {}{}{} ZeRO {}", l.parallel.tensor, l.parallel.expert,
                     l.parallel.expert_tensor ? " TED" : "",
                     l.parallel.placement == ExpertPlacement::dp_first ? " dp-first" : "", l.zero_stage);
}

// All layouts of a world with up to `most_tensor` ranks of tensor parallelism.
inline std::vector<Layout> all_layouts(int world_size, std::int64_t most_tensor) {
  std::vector<Layout> layouts;
  for (std::int64_t tensor = 1; tensor <= most_tensor; tensor *= 2)
    for (std::int64_t expert = 1; expert <= 8; expert *= 2)
      for (const bool expert_tensor : {false, true})
        for (const auto placement : {ExpertPlacement::ep_first, ExpertPlacement::dp_first})
          for (const std::int64_t zero_stage : {0, 1}) {
            const ParallelLayout parallel = {tensor, expert, expert_tensor, placement};
            const bool same = expert == 1 && placement == ExpertPlacement::dp_first;
            if ((expert_tensor && tensor == 1) || same || !layout_problem(parallel, world_size).empty())
              continue;
            layouts.push_back({parallel, zero_stage});
          }
  return layouts;
}

}  // namespace xmoe::test
