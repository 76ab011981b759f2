// The time of an MoE layer's matrix products and nothing else: every expert has R / E rows and its own
// weights, and each product is one dense call of the vendor's library on all threads, by the best way that
// the library has for the shape.
#pragma once

#include "bench/support/gemm_bound.h"
#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe {

struct ExpertBound {
  double forward_seconds = 0.0;
  double backward_seconds = 0.0;
};

inline ExpertBound expert_bound(std::int64_t rows, std::int64_t hidden, std::int64_t ffn,
                                std::int64_t experts, Activation activation, DType dtype) {
  const std::int64_t m = rows / experts;
  const std::int64_t width = preactivation_width(activation, ffn);
  const auto seconds = [&](std::int64_t a, std::int64_t b, std::int64_t c, DType output,
                           const GemmOptions& options) {
    return 2.0 * static_cast<double>(a * b * c * experts) /
           (gemm_bound(a, b, c, dtype, output, options) * 1e9);
  };
  const GemmOptions times_transposed{.b = Transpose::yes};
  const GemmOptions weight_gradient{.a = Transpose::yes, .accumulate = true};
  ExpertBound bound;
  bound.forward_seconds =
      seconds(m, width, hidden, dtype, times_transposed) + seconds(m, hidden, ffn, dtype, times_transposed);
  bound.backward_seconds = seconds(m, ffn, hidden, dtype, {}) + seconds(m, hidden, width, dtype, {}) +
                           seconds(width, hidden, m, DType::f32, weight_gradient) +
                           seconds(hidden, ffn, m, DType::f32, weight_gradient);
  return bound;
}

}  // namespace xmoe
