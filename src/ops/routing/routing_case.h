// The op case of routing, for its test and its benchmark.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/routing/routing.h"
#include "support/op_case.h"

namespace xmoe {

struct RoutingReference {
  std::vector<std::int64_t> top_experts;  // [T, k]
  std::vector<double> top_weights;        // [T, k]
  std::vector<double> prob_sums;          // [E]
  std::vector<std::int64_t> counts;       // [E]
  double z_sum = 0.0;
};

namespace routing_reference {

// The n best of `candidates` by value: a number before NaN, the lower index on ties.
inline std::vector<std::int64_t> best(std::vector<std::int64_t> candidates, const std::vector<double>& value,
                                      std::int64_t n) {
  std::stable_sort(candidates.begin(), candidates.end(), [&](std::int64_t a, std::int64_t b) {
    const double x = value[static_cast<std::size_t>(a)];
    const double y = value[static_cast<std::size_t>(b)];
    return x > y || (!std::isnan(x) && std::isnan(y));
  });
  candidates.resize(static_cast<std::size_t>(n));
  return candidates;
}

inline std::vector<std::int64_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(end - begin));
  std::iota(all.begin(), all.end(), begin);
  return all;
}

inline std::vector<std::int64_t> choose(const RoutingOptions& o, const std::vector<double>& biased,
                                        bool has_bias) {
  const auto experts = static_cast<std::int64_t>(biased.size());
  if (o.groups == 1) return best(range(0, experts), biased, o.top_k);
  const std::int64_t size = experts / o.groups;
  std::vector<double> group_scores;
  for (std::int64_t g = 0; g < o.groups; ++g) {
    double score = 0.0;
    for (const std::int64_t e :
         best(range(g * size, (g + 1) * size), biased, std::min<std::int64_t>(size, has_bias ? 2 : 1)))
      score += biased[static_cast<std::size_t>(e)];
    group_scores.push_back(score);
  }
  std::vector<std::int64_t> groups = best(range(0, o.groups), group_scores, o.topk_groups);
  std::sort(groups.begin(), groups.end());
  std::vector<std::int64_t> eligible;
  for (const std::int64_t g : groups)
    for (std::int64_t e = g * size; e < (g + 1) * size; ++e) eligible.push_back(e);
  return best(eligible, biased, o.top_k);
}

}  // namespace routing_reference

inline RoutingReference route(const RoutingOptions& o, std::int64_t experts,
                              const std::vector<double>& logits, const std::vector<double>& bias) {
  RoutingReference out;
  out.prob_sums.assign(static_cast<std::size_t>(experts), 0.0);
  out.counts.assign(static_cast<std::size_t>(experts), 0);
  for (std::size_t first = 0; first < logits.size(); first += static_cast<std::size_t>(experts)) {
    const std::vector<double> row(logits.begin() + static_cast<std::ptrdiff_t>(first),
                                  logits.begin() + static_cast<std::ptrdiff_t>(first) + experts);
    const double maximum = *std::max_element(row.begin(), row.end());
    double sum = 0.0;
    for (const double x : row) sum += std::exp(x - maximum);
    const double lse = maximum + std::log(sum);
    out.z_sum += lse * lse;
    std::vector<double> probs;
    for (const double x : row) probs.push_back(std::exp(x - lse));
    std::vector<double> scores = o.pre_softmax ? probs : row;
    if (o.score_function == ScoreFunction::sigmoid) {
      for (std::size_t e = 0; e < row.size(); ++e) scores[e] = 1.0 / (1.0 + std::exp(-row[e]));
      const double total = std::accumulate(scores.begin(), scores.end(), 1e-20);
      for (std::size_t e = 0; e < row.size(); ++e) probs[e] = scores[e] / total;
    }
    for (std::size_t e = 0; e < row.size(); ++e) out.prob_sums[e] += probs[e];
    std::vector<double> biased = scores;
    for (std::size_t e = 0; e < bias.size(); ++e) biased[e] += bias[e];

    const bool post_softmax = o.score_function == ScoreFunction::softmax && !o.pre_softmax;
    double denominator = o.score_function == ScoreFunction::sigmoid ? 1e-20 : 0.0;
    std::vector<double> weights;
    for (const std::int64_t e : routing_reference::choose(o, biased, !bias.empty())) {
      out.top_experts.push_back(e);
      ++out.counts[static_cast<std::size_t>(e)];
      const double score = scores[static_cast<std::size_t>(e)];
      weights.push_back(post_softmax ? std::exp(score - maximum) : score);
      denominator += weights.back();
    }
    if (!post_softmax && !o.normalize_topk) denominator = 1.0;
    for (const double w : weights) out.top_weights.push_back(w / denominator * o.scaling_factor);
  }
  return out;
}

// Outputs: the choice, the weights, the sums of probs and of z. All in f32 whatever the case is run in.
inline OpCase routing_case(const RoutingOptions& o, std::int64_t tokens, std::int64_t experts,
                           bool has_bias) {
  OpCase op;
  op.name = fmt::format("routing T {} E {} k {} {}{}{} groups {}/{}{}", tokens, experts, o.top_k,
                        o.score_function == ScoreFunction::sigmoid ? "sigmoid" : "softmax",
                        o.pre_softmax ? " before" : "", o.normalize_topk ? " normalised" : "", o.topk_groups,
                        o.groups, has_bias ? " biased" : "");
  op.inputs = {{.name = "logits", .shape = {tokens, experts}, .kind = ElementKind::f32},
               {.name = "bias",
                .shape = {experts},
                .kind = ElementKind::f32,
                .fill = normal(0.3),
                .differentiable = false}};
  op.outputs = {{.name = "top_experts", .shape = {tokens, o.top_k}, .kind = ElementKind::i32},
                {.name = "top_weights", .shape = {tokens, o.top_k}, .kind = ElementKind::f32},
                {.name = "prob_sums", .shape = {experts}, .kind = ElementKind::f32},
                {.name = "z_sum", .shape = {1}, .kind = ElementKind::f32}};
  op.terms = tokens + experts;
  op.backward_terms = experts;
  op.reference = [=](const Doubles& in, Doubles& out) {
    const RoutingReference r = route(o, experts, in[0], has_bias ? in[1] : std::vector<double>{});
    out[0].assign(r.top_experts.begin(), r.top_experts.end());
    out[1] = r.top_weights;
    out[2] = r.prob_sums;
    out[3][0] = r.z_sum;
  };
  op.forward = [=](const Context& ctx, Tensors in, Tensors out) {
    const ArenaScope scope(ctx.workspace);
    const Tensor counts = ctx.workspace.tensor(DType::i64, {experts});
    routing_forward(ctx, o, in[0], has_bias ? in[1] : Tensor{}, out[0], out[1], out[2], counts, out[3]);
  };
  op.backward = [=](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    routing_backward(ctx, o, in[0], out[0], d_out[1], d_out[2], static_cast<float>(to_doubles(d_out[3])[0]),
                     d_in[0]);
  };
  return op;
}

}  // namespace xmoe
