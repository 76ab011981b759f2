// A trainable tensor as the optimizer, the gradient reduction and the checkpoint see it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "comm/mesh.h"
#include "device/tensor.h"
#include "model/sharding.h"

namespace xmoe {

// Who holds the same values, and whose gradients are therefore summed.
enum class Replication : std::uint8_t {
  all,     // every rank: norms, routers, shared experts
  tensor,  // the ranks of one dp group: matrices cut over tp
  expert,  // the ranks of one edp group
};
inline constexpr int kReplications = 3;
Communicator& replicas(const Mesh& mesh, Replication replication);

// Where a rank stands in a layout: all that decides which parts of a model it holds.
struct Placement {
  std::int64_t tensor_rank = 0, tensor_size = 1;
  std::int64_t expert_rank = 0, expert_size = 1;
  bool expert_tensor = false;                        // ParallelLayout's
  std::array<int, kReplications> replicas{1, 1, 1};  // ranks that hold the same, by Replication
};
Placement placement_of(const Mesh& mesh);
// Of the first rank of a layout that fits so many. What ranks hold differs in content, not in size.
Placement placement_of(const ParallelLayout& layout, int world_size);

struct Parameter {
  std::string name;  // global, the same on every rank and layout: "layers.3.moe.experts.w1"
  Tensor value;      // in the compute dtype; this rank's part
  Tensor grad;       // same shape; sums over micro-batches
  Replication replication = Replication::all;
  bool decay = true;      // weight decay applies (false for norms and biases)
  bool trainable = true;  // false for buffers that are kept with the model but have no gradient
  Shape global_shape;
  Sharding sharding;
  // Where it lies in the flat buffers of ParameterSet::groups(); no group: not trainable.
  int group = -1;
  std::int64_t begin = 0;
};

}  // namespace xmoe
