// Cases of the norms, for tests and benchmarks. Letters: T rows, H width.
#pragma once

#include <cmath>

#include "ops/norm/norm.h"
#include "support/op_case.h"

namespace xmoe {

inline OpCase norm_case(NormKind kind, std::int64_t rows, std::int64_t width) {
  constexpr float kEpsilon = 1e-5F;
  const bool layer = kind == NormKind::layer_norm;
  OpCase op;
  op.name = layer ? "norm.layer" : "norm.rms";
  // A mean apart from zero, so that centring matters; weights near one, as they are trained.
  op.inputs = {{.name = "x", .shape = {rows, width}, .fill = normal(1.0, 0.5), .gradient_added = true},
               {.name = "weight",
                .shape = {width},
                .fill = normal(0.2, 1.0),
                .gradient = ElementKind::f32,
                .gradient_added = true}};
  if (layer)
    op.inputs.push_back(
        {.name = "bias", .shape = {width}, .gradient = ElementKind::f32, .gradient_added = true});
  op.outputs = {{.name = "y", .shape = {rows, width}},
                {.name = "stats", .shape = {rows, 2}, .kind = ElementKind::f32, .differentiable = false}};
  op.terms = width;
  op.backward_terms = std::max(rows, width);
  op.reference = [=](const Doubles& in, Doubles& out) {
    for (std::int64_t t = 0; t < rows; ++t) {
      const double* x = in[0].data() + t * width;
      double mean = 0.0;
      if (layer)
        for (std::int64_t i = 0; i < width; ++i) mean += x[i] / static_cast<double>(width);
      double variance = 0.0;
      for (std::int64_t i = 0; i < width; ++i)
        variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(width);
      const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(kEpsilon));
      for (std::int64_t i = 0; i < width; ++i)
        out[0][static_cast<std::size_t>(t * width + i)] =
            (x[i] - mean) * inverse * in[1][static_cast<std::size_t>(i)] +
            (layer ? in[2][static_cast<std::size_t>(i)] : 0.0);
      out[1][static_cast<std::size_t>(2 * t)] = mean;
      out[1][static_cast<std::size_t>(2 * t + 1)] = inverse;
    }
  };
  op.forward = [=](const Context& ctx, Tensors in, Tensors out) {
    norm_forward(ctx, kind, kEpsilon, in[0], in[1], layer ? in[2] : Tensor{}, out[0], out[1]);
  };
  op.backward = [=](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    norm_backward(ctx, kind, d_out[0], in[0], in[1], out[1], d_in[0], d_in[1], layer ? d_in[2] : Tensor{});
  };
  return op;
}

}  // namespace xmoe
