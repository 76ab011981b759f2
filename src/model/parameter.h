// A trainable tensor as the optimizer, the gradient reduction and the checkpoint see it.
#pragma once

#include <cstdint>
#include <string>

#include "device/tensor.h"

namespace xmoe {

// Who holds the same values: all ranks (dense), or the ranks of one edp group (expert).
enum class Replication : std::uint8_t { dense, expert };

struct Parameter {
  std::string name;  // global, the same on every rank and layout: "layers.3.moe.experts.w1"
  Tensor value;      // in the compute dtype; this rank's slice
  Tensor grad;       // f32, same shape; sums over micro-batches
  Replication replication = Replication::dense;
  bool decay = true;      // weight decay applies (false for norms and biases)
  bool trainable = true;  // false for buffers that are kept with the model but have no gradient
  // The slice of the global tensor: rows [offset, offset + value.dim(0)) of global_shape's leading dimension.
  Shape global_shape;
  std::int64_t offset = 0;
};

}  // namespace xmoe
