// The op case of the fused output projection and cross-entropy, for its test and its benchmark.
#pragma once

#include <algorithm>
#include <cmath>

#include "ops/cross_entropy/cross_entropy.h"
#include "support/op_case.h"

namespace xmoe {

struct CrossEntropyShape {
  std::int64_t tokens = 0;      // T
  std::int64_t hidden = 0;      // H
  std::int64_t vocabulary = 0;  // rows of w that take part
  std::int64_t rows = 0;        // V
};

inline void cross_entropy_reference(const CrossEntropyShape& s, const Doubles& in,
                                    std::vector<double>& losses) {
  std::vector<double> logits(static_cast<std::size_t>(s.vocabulary));
  for (std::int64_t t = 0; t < s.tokens; ++t) {
    const auto target = static_cast<std::int64_t>(in[2][static_cast<std::size_t>(t)]);
    losses[static_cast<std::size_t>(t)] = 0.0;
    if (target == kIgnoredTarget) continue;
    double maximum = -HUGE_VAL;
    for (std::int64_t v = 0; v < s.vocabulary; ++v) {
      double z = 0.0;
      for (std::int64_t c = 0; c < s.hidden; ++c)
        z += in[0][static_cast<std::size_t>(t * s.hidden + c)] *
             in[1][static_cast<std::size_t>(v * s.hidden + c)];
      logits[static_cast<std::size_t>(v)] = z;
      maximum = std::max(maximum, z);
    }
    double sum = 0.0;
    for (const double z : logits) sum += std::exp(z - maximum);
    losses[static_cast<std::size_t>(t)] = maximum + std::log(sum) - logits[static_cast<std::size_t>(target)];
  }
}

// The op takes the gradient of the sum of the losses as a number, so the case has that sum as its
// differentiable output.
inline OpCase cross_entropy_case(const CrossEntropyShape& s) {
  OpCase op;
  op.name =
      fmt::format("cross_entropy T {} H {} vocabulary {} of {}", s.tokens, s.hidden, s.vocabulary, s.rows);
  op.inputs = {{.name = "x", .shape = {s.tokens, s.hidden}},
               {.name = "w",
                .shape = {s.rows, s.hidden},
                .fill = normal(1.0 / std::sqrt(static_cast<double>(s.hidden))),
                .gradient = ElementKind::f32,
                .gradient_added = true},
               {.name = "targets",
                .shape = {s.tokens},
                .kind = ElementKind::i32,
                .fill = integers(kIgnoredTarget, s.vocabulary),
                .differentiable = false}};
  op.outputs = {{.name = "losses", .shape = {s.tokens}, .kind = ElementKind::f32, .differentiable = false},
                {.name = "total", .shape = {1}, .kind = ElementKind::f32}};
  op.terms = s.hidden + s.vocabulary + s.tokens;
  op.backward_terms = s.hidden + std::max(s.vocabulary, s.tokens);
  op.rounds_intermediates = true;
  op.reference = [s](const Doubles& in, Doubles& out) {
    cross_entropy_reference(s, in, out[0]);
    for (const double loss : out[0]) out[1][0] += loss;
  };
  op.forward = [s](const Context& ctx, Tensors in, Tensors out) {
    linear_cross_entropy(ctx, in[0], in[1], s.vocabulary, in[2], out[0], 1.0F, {}, {});
    double total = 0.0;
    for (const double loss : to_doubles(out[0])) total += loss;
    out[1].data<float>()[0] = static_cast<float>(total);
  };
  op.backward = [s](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    linear_cross_entropy(ctx, in[0], in[1], s.vocabulary, in[2], out[0], d_out[1].data<float>()[0], d_in[0],
                         d_in[1]);
  };
  op.backward_flops = 3.0 * 2.0 * static_cast<double>(s.tokens * s.hidden * s.vocabulary);
  return op;
}

}  // namespace xmoe
