// The op case of the fused output projection and cross-entropy, for its test and its benchmark.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cross_entropy/cross_entropy.h"
#include "ops/elementwise/elementwise.h"
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

inline float value_of(const Tensor& scalar) { return static_cast<float>(to_doubles(scalar).front()); }

inline void sum_losses(const Tensor& losses, const Tensor& total) {
  double sum = 0.0;
  for (const double loss : to_doubles(losses)) sum += loss;
  from_doubles(std::vector<double>{sum}, total);
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
    sum_losses(out[0], out[1]);
  };
  op.backward = [s](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    linear_cross_entropy(ctx, in[0], in[1], s.vocabulary, in[2], out[0], value_of(d_out[1]), d_in[0],
                         d_in[1]);
  };
  op.backward_flops = 3.0 * 2.0 * static_cast<double>(s.tokens * s.hidden * s.vocabulary);
  return op;
}

// The op as `slices` ranks run it, each with a run of as many rows of w, one behind the other in one process:
// the first pass over the slices notes the statistics that the second has merged.
inline void cross_entropy_in_slices(const Context& ctx, std::int64_t slices, std::int64_t vocabulary,
                                    const Tensor& x, const Tensor& w, const Tensor& targets,
                                    const Tensor& losses, float grad_scale, const Tensor& dx,
                                    const Tensor& dw) {
  const std::int64_t each = w.dim(0) / slices;
  std::vector<Doubles> noted(static_cast<std::size_t>(slices));  // by chunk
  const auto for_slices = [&](const auto& body) {
    for (std::int64_t i = 0; i < slices; ++i) {
      const std::int64_t first = i * each;
      body(static_cast<std::size_t>(i), first, std::clamp<std::int64_t>(vocabulary - first, 0, each));
    }
  };
  for_slices([&](std::size_t i, std::int64_t first, std::int64_t words) {
    const VocabularySlice slice{
        first, vocabulary, [&](const Tensor& statistics) { noted[i].push_back(to_doubles(statistics)); }};
    linear_cross_entropy(ctx, x, w.slice(first, first + each), words, targets, losses, 0.0F, {}, {}, &slice);
  });
  const ArenaScope scope(ctx.workspace);
  const Tensor part_dx = dx.defined() ? ctx.workspace.tensor(dx.dtype(), dx.shape()) : dx;
  for_slices([&](std::size_t i, std::int64_t first, std::int64_t words) {
    std::size_t chunk = 0;
    const VocabularySlice slice{first, vocabulary, [&](const Tensor& statistics) {
                                  const ArenaScope merge_scope(ctx.workspace);
                                  const Tensor parts = ctx.workspace.tensor(
                                      DType::f32, {slices, statistics.dim(0), statistics.dim(1)});
                                  for (std::size_t j = 0; j < noted.size(); ++j)
                                    from_doubles(noted[j][chunk], parts[static_cast<std::int64_t>(j)]);
                                  merge_statistics(ctx, parts, statistics);
                                  ++chunk;
                                }};
    linear_cross_entropy(ctx, x, w.slice(first, first + each), words, targets, losses, grad_scale, part_dx,
                         dw.defined() ? dw.slice(first, first + each) : dw, &slice);
    if (!dx.defined()) return;
    if (i == 0) {
      copy(ctx, part_dx, dx);
    } else {
      add(ctx, dx, part_dx, dx);
    }
  });
}

inline OpCase sliced_cross_entropy_case(const CrossEntropyShape& s, std::int64_t slices) {
  OpCase op = cross_entropy_case(s);
  op.name += fmt::format(" in {} slices", slices);
  op.forward = [s, slices](const Context& ctx, Tensors in, Tensors out) {
    cross_entropy_in_slices(ctx, slices, s.vocabulary, in[0], in[1], in[2], out[0], 1.0F, {}, {});
    sum_losses(out[0], out[1]);
  };
  op.backward = [s, slices](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    cross_entropy_in_slices(ctx, slices, s.vocabulary, in[0], in[1], in[2], out[0], value_of(d_out[1]),
                            d_in[0], d_in[1]);
  };
  op.backward_terms += slices;
  return op;
}

}  // namespace xmoe
