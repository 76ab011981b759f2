// The op case of attention, for its test and its benchmark.
#pragma once

#include <algorithm>
#include <cmath>

#include "ops/attention/attention.h"
#include "support/op_case.h"

namespace xmoe {

// Plain softmax over the visible keys, in double.
inline void attention_reference(const AttentionShape& s, const std::vector<double>& qkv,
                                std::vector<double>& out, std::vector<double>& lse) {
  const auto at = [&](std::int64_t b, std::int64_t t, std::int64_t slot, std::int64_t c) {
    return qkv[static_cast<std::size_t>((b * s.seq + t) * s.qkv_width() + slot * s.head_dim + c)];
  };
  std::vector<double> scores(static_cast<std::size_t>(s.seq));
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.heads; ++h) {
      const std::int64_t k = s.heads + h / (s.heads / s.kv_heads);
      const std::int64_t v = k + s.kv_heads;
      for (std::int64_t t = 0; t < s.seq; ++t) {
        double maximum = -HUGE_VAL;
        for (std::int64_t j = 0; j <= t; ++j) {
          double score = 0.0;
          for (std::int64_t c = 0; c < s.head_dim; ++c) score += at(b, t, h, c) * at(b, j, k, c);
          scores[static_cast<std::size_t>(j)] = score / std::sqrt(static_cast<double>(s.head_dim));
          maximum = std::max(maximum, scores[static_cast<std::size_t>(j)]);
        }
        double sum = 0.0;
        for (std::int64_t j = 0; j <= t; ++j) sum += std::exp(scores[static_cast<std::size_t>(j)] - maximum);
        lse[static_cast<std::size_t>((b * s.heads + h) * s.seq + t)] = maximum + std::log(sum);
        for (std::int64_t c = 0; c < s.head_dim; ++c) {
          double o = 0.0;
          for (std::int64_t j = 0; j <= t; ++j)
            o += std::exp(scores[static_cast<std::size_t>(j)] - maximum) / sum * at(b, j, v, c);
          out[static_cast<std::size_t>(((b * s.seq + t) * s.heads + h) * s.head_dim + c)] = o;
        }
      }
    }
  }
}

inline OpCase attention_case(const AttentionShape& s) {
  OpCase op;
  op.name = fmt::format("attention batch {} seq {} heads {}/{} size {}", s.batch, s.seq, s.heads, s.kv_heads,
                        s.head_dim);
  op.inputs = {{.name = "qkv", .shape = {s.rows(), s.qkv_width()}}};
  op.outputs = {
      {.name = "out", .shape = {s.rows(), s.heads * s.head_dim}},
      {.name = "lse", .shape = {s.batch, s.heads, s.seq}, .kind = ElementKind::f32, .differentiable = false}};
  op.terms = s.seq + s.head_dim;
  op.backward_terms = 2 * (s.seq + s.head_dim) * (s.heads / s.kv_heads);
  op.rounds_intermediates = true;
  op.reference = [s](const Doubles& in, Doubles& out) { attention_reference(s, in[0], out[0], out[1]); };
  op.forward = [s](const Context& ctx, Tensors in, Tensors out) {
    attention_forward(ctx, s, in[0], out[0], out[1]);
  };
  op.backward = [s](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    attention_backward(ctx, s, d_out[0], in[0], out[0], out[1], d_in[0]);
  };
  op.forward_flops = s.forward_flops();
  op.backward_flops = 2.5 * s.forward_flops();
  return op;
}

}  // namespace xmoe
