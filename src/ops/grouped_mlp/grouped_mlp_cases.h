// Cases of the op for its test and its benchmark. The op leaves the sum over the rows of a token to its
// caller; the cases add it, so that they are functions of tokens whose gradient can be checked.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "ops/gather/gather.h"
#include "ops/grouped_mlp/grouped_mlp.h"
#include "support/op_case.h"

namespace xmoe {

struct GroupedMlpSizes {
  std::int64_t tokens = 0;  // L + S
  std::int64_t remote = 0;  // S: the last tokens lie in the other matrix
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  Activation activation = Activation::swiglu;
  std::vector<std::int64_t> per_expert;
  bool in_order = false;  // no indices: row r is token r
  bool weighted = true;
  ElementKind gradients = ElementKind::f32;  // of the weights; or compute
};

namespace grouped_mlp_cases {

inline double activation_value(Activation activation, const double* h, std::int64_t ffn, std::int64_t i) {
  if (activation == Activation::swiglu) return h[i] / (1.0 + std::exp(-h[i])) * h[ffn + i];
  const double u = std::sqrt(2.0 / 3.14159265358979323846) * (h[i] + 0.044715 * h[i] * h[i] * h[i]);
  return 0.5 * h[i] * (1.0 + std::tanh(u));
}

// Indices on the host and, once asked for, on a device.
class Indices {
 public:
  Indices(std::vector<std::int32_t> values, const Shape& shape) : values_(std::move(values)), shape_(shape) {}
  std::int32_t operator[](std::int64_t i) const { return values_[static_cast<std::size_t>(i)]; }
  Tensor on(const Device& device) {
    const Tensor host(values_.data(), DType::i32, shape_);
    if (device.is_cpu()) return host;
    if (!arena_) {
      arena_ = std::make_unique<Arena>(device, MemoryTag::workspace);
      there_ = arena_->tensor(DType::i32, shape_);
      device_copy(host.device(), host.raw(), device, there_.raw(), host.bytes());
    }
    return there_;
  }

 private:
  std::vector<std::int32_t> values_;
  Shape shape_;
  std::unique_ptr<Arena> arena_;
  Tensor there_;
};

// Of each token, the results that are summed, in order of row: out[source[r]] += rows[destination[r]].
inline std::shared_ptr<Indices> results_by_token(std::int64_t tokens, const std::vector<std::int32_t>& source,
                                                 const std::vector<std::int32_t>& destination) {
  std::vector<std::vector<std::int32_t>> lists(static_cast<std::size_t>(tokens));
  for (std::size_t r = 0; r < source.size(); ++r)
    lists[static_cast<std::size_t>(source[r])].push_back(destination[r]);
  std::size_t most = 0;
  for (const auto& list : lists) most = std::max(most, list.size());
  std::vector<std::int32_t> table;
  for (auto& list : lists) {
    list.resize(most, -1);
    table.insert(table.end(), list.begin(), list.end());
  }
  return std::make_shared<Indices>(std::move(table), Shape{tokens, static_cast<std::int64_t>(most)});
}

}  // namespace grouped_mlp_cases

inline OpCase grouped_mlp_case(const GroupedMlpSizes& s, Accumulation accumulation, const std::string& name) {
  using namespace grouped_mlp_cases;
  const auto experts = static_cast<std::int64_t>(s.per_expert.size());
  const std::int64_t rows = std::accumulate(s.per_expert.begin(), s.per_expert.end(), std::int64_t{0});
  const std::int64_t width = preactivation_width(s.activation, s.ffn);
  const bool added = accumulation == Accumulation::add;
  // Rows name random tokens, and results go to a permutation of places.
  std::vector<std::int32_t> sources;
  std::vector<std::int32_t> destinations;
  const Rng rng(3, name);
  for (std::int64_t r = 0; r < rows; ++r) {
    sources.push_back(static_cast<std::int32_t>(
        s.in_order ? r
                   : static_cast<std::int64_t>(
                         rng.below(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(s.tokens)))));
    destinations.push_back(static_cast<std::int32_t>(r));
  }
  for (std::int64_t r = rows - 1; r > 0 && !s.in_order; --r)
    std::swap(
        destinations[static_cast<std::size_t>(r)],
        destinations[rng.below(static_cast<std::uint64_t>(rows + r), static_cast<std::uint64_t>(r + 1))]);
  const auto by_token = results_by_token(s.tokens, sources, destinations);
  const auto source = std::make_shared<Indices>(std::move(sources), Shape{rows});
  const auto destination = std::make_shared<Indices>(std::move(destinations), Shape{rows});

  const auto expert_rows = [=](const Device& device, const Tensor& weights) {
    ExpertRows e{s.per_expert, {}, {}, s.weighted ? weights : Tensor{}};
    if (!s.in_order) {
      e.source = source->on(device);
      e.destination = destination->on(device);
    }
    return e;
  };
  const auto pair = [=](const Tensor& all, std::int64_t remote) {
    RowPair p{all.slice(0, all.dim(0) - remote), {}};
    if (remote > 0) p.remote = all.slice(all.dim(0) - remote, all.dim(0));
    return p;
  };
  const std::int64_t remote_results = s.in_order ? 0 : rows / 3;

  OpCase op;
  op.name = name + (added ? "" : ", gradients written") +
            (s.gradients == ElementKind::compute ? ", in the dtype of the weights" : "");
  op.inputs = {{.name = "x", .shape = {s.tokens, s.hidden}},
               {.name = "w1",
                .shape = {experts, width, s.hidden},
                .fill = normal(1.0 / std::sqrt(static_cast<double>(s.hidden))),
                .gradient = s.gradients,
                .gradient_added = added},
               {.name = "w2",
                .shape = {experts, s.hidden, s.ffn},
                .fill = normal(1.0 / std::sqrt(static_cast<double>(s.ffn))),
                .gradient = s.gradients,
                .gradient_added = added},
               {.name = "weights",
                .shape = {rows},
                .kind = ElementKind::f32,
                .fill = uniform(0.1, 1.0),
                .differentiable = s.weighted,
                .gradient = ElementKind::f32}};
  op.outputs = {{.name = "y", .shape = {s.tokens, s.hidden}},
                {.name = "h", .shape = {rows, width}, .differentiable = false}};
  op.terms = std::max(s.hidden, s.ffn);
  op.backward_terms = std::max({s.hidden, width, rows});
  op.rounds_intermediates = true;
  op.reference = [=](const Doubles& in, Doubles& out) {
    std::int64_t r = 0;
    std::vector<double> a(static_cast<std::size_t>(s.ffn));
    for (std::int64_t e = 0; e < experts; ++e) {
      for (std::int64_t i = 0; i < s.per_expert[static_cast<std::size_t>(e)]; ++i, ++r) {
        const std::int64_t t = (*source)[r];
        double* h = out[1].data() + r * width;
        for (std::int64_t f = 0; f < width; ++f) {
          h[f] = 0.0;
          for (std::int64_t c = 0; c < s.hidden; ++c)
            h[f] += in[0][static_cast<std::size_t>(t * s.hidden + c)] *
                    in[1][static_cast<std::size_t>((e * width + f) * s.hidden + c)];
        }
        const double w = s.weighted ? in[3][static_cast<std::size_t>(r)] : 1.0;
        for (std::int64_t f = 0; f < s.ffn; ++f)
          a[static_cast<std::size_t>(f)] = w * activation_value(s.activation, h, s.ffn, f);
        for (std::int64_t c = 0; c < s.hidden; ++c)
          for (std::int64_t f = 0; f < s.ffn; ++f)
            out[0][static_cast<std::size_t>(t * s.hidden + c)] +=
                a[static_cast<std::size_t>(f)] *
                in[2][static_cast<std::size_t>((e * s.hidden + c) * s.ffn + f)];
      }
    }
  };
  op.forward = [=](const Context& ctx, Tensors in, Tensors out) {
    const ArenaScope scope(ctx.workspace);
    const Tensor results = ctx.workspace.tensor(in[0].dtype(), {rows, s.hidden});
    grouped_mlp_forward(ctx, s.activation, expert_rows(ctx.device(), in[3]), pair(in[0], s.remote), in[1],
                        in[2], out[1], pair(results, remote_results));
    combine_rows(ctx, results, by_token->on(ctx.device()), out[0]);
  };
  op.backward = [=](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    const ArenaScope scope(ctx.workspace);
    const Tensor results = ctx.workspace.tensor(in[0].dtype(), {rows, s.hidden});
    grouped_mlp_backward(ctx, s.activation, expert_rows(ctx.device(), in[3]), pair(d_out[0], s.remote),
                         pair(in[0], s.remote), in[1], in[2], out[1], pair(results, remote_results),
                         s.weighted ? d_in[3] : Tensor{}, d_in[1], d_in[2], accumulation);
    combine_rows(ctx, results, by_token->on(ctx.device()), d_in[0]);
  };
  op.forward_flops = 2.0 * static_cast<double>(rows * s.hidden * (width + s.ffn));
  op.backward_flops = 2.0 * op.forward_flops;
  return op;
}

}  // namespace xmoe
