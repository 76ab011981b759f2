// The time of an MoE layer's matrix products and nothing else; gradients of weights are written, not added
// to. On the CPU every expert has R / E rows and its own weights, and each product is one dense call of the
// vendor's library on all threads, by the best way that the library has for the shape. On a GPU all rows are
// multiplied with one expert's weights: what the library can do at best.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe {

// Experts over tokens of which each goes to top_k.
struct ExpertShape {
  std::int64_t tokens, hidden, ffn, experts, top_k;
  Activation activation;

  std::int64_t rows() const { return tokens * top_k; }
  std::int64_t width() const { return preactivation_width(activation, ffn); }
  double forward_flops() const { return 2.0 * static_cast<double>(rows() * hidden * (width() + ffn)); }
  std::string name() const;
};

// Layers of published models, at the size at which a GPU trains them.
const std::vector<ExpertShape>& large_expert_shapes();

struct ExpertBound {
  double forward_seconds = 0.0;
  double backward_seconds = 0.0;
};

ExpertBound expert_bound(const ExpertShape& shape, DType dtype, const Device& device = {});

}  // namespace xmoe
