// An MoE layer with one batch, laid out over ranks: what the tests of the layer share. Values are functions
// of a name and an index in the whole, so that every layout has its part of the same weights and tokens.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "comm/mesh.h"
#include "distributed/support.h"
#include "model/parameter.h"
#include "moe/layer.h"
#include "support/compare.h"
#include "support/shard_elements.h"

namespace xmoe {

struct LayerCase {
  const char* name;
  std::int64_t experts_per_rank;
  std::int64_t top_k;
  std::int64_t hidden = 24;
  std::int64_t ffn = 20;
  std::int64_t shared = 12;
  Activation activation = Activation::swiglu;
  std::vector<std::int64_t> tokens;  // by rank, repeated
  int favoured = -1;                 // expert that every token chooses, or -1
  ScoreFunction score = ScoreFunction::softmax;
  DType dtype = DType::f32;  // of activations and of all weights but the router's

  // f32: sums of at most a few hundred terms in different orders. bf16: such a sum may round to the next of
  // its numbers, 2^-8 apart.
  double tolerance() const { return dtype == DType::f32 ? 2e-5 : 1.0 / 256.0; }

  std::int64_t tokens_of(int rank) const { return tokens[static_cast<std::size_t>(rank) % tokens.size()]; }
};

inline void PrintTo(const LayerCase& c, std::ostream* out) { *out << c.name; }

// A layer with its weights, gradients and one batch: this rank's part of them on `mesh`.
class LayerFixture {
 public:
  LayerFixture(const LayerCase& c, int world_size, const Mesh& mesh, std::int64_t first_token,
               std::int64_t tokens, const MoeConfig& config, const MoeRecompute& recompute = {})
      : case_(c),
        experts_(c.experts_per_rank * world_size),
        memory_(distributed::tested_device(), MemoryTag::parameters),
        saved_(distributed::tested_device(), MemoryTag::saved),
        workspace_(distributed::tested_device(), MemoryTag::workspace) {
    weights.router = weight("router", {experts_, c.hidden}, {}, 0.5, DType::f32);
    const bool gated = c.activation == Activation::swiglu;
    Sharding w1;
    Sharding w2;
    w1.axes[0] = w2.axes[0] = {equal_part({0, experts_}, mesh.ep().rank(), mesh.ep().size())};
    if (mesh.layout().expert_tensor) {
      const auto share = [&](std::int64_t begin) {
        return equal_part({begin, c.ffn}, mesh.tp().rank(), mesh.tp().size());
      };
      w1.axes[1] = {share(0)};
      if (gated) w1.axes[1].push_back(share(c.ffn));
      w2.axes[2] = {share(0)};
    }
    weights.experts_w1 =
        weight("w1", {experts_, preactivation_width(c.activation, c.ffn), c.hidden}, w1, 0.3, c.dtype);
    weights.experts_w2 = weight("w2", {experts_, c.hidden, c.ffn}, w2, 0.3, c.dtype);
    // backward is to write these.
    for (const Weight& w : {weights.experts_w1, weights.experts_w2})
      from_doubles(std::vector<double>(static_cast<std::size_t>(w.grad.numel()),
                                       std::numeric_limits<double>::quiet_NaN()),
                   w.grad);
    if (c.shared > 0) {
      weights.shared_w1 =
          weight("shared_w1", {1, preactivation_width(c.activation, c.shared), c.hidden}, {}, 0.3, c.dtype);
      weights.shared_w2 = weight("shared_w2", {1, c.hidden, c.shared}, {}, 0.3, c.dtype);
    }
    if (c.favoured >= 0) {
      std::vector<double> bias(static_cast<std::size_t>(experts_), 0.0);
      bias[static_cast<std::size_t>(c.favoured % experts_)] = 100.0;
      weights.router_bias = memory_.tensor(DType::f32, {experts_});
      from_doubles(bias, weights.router_bias);
    }
    x = filled("x", {tokens, c.hidden}, first_token * c.hidden, 1.0, c.dtype);
    dy = filled("dy", {tokens, c.hidden}, first_token * c.hidden, 1.0, c.dtype);
    y = memory_.zeros(c.dtype, x.shape());
    dx = memory_.zeros(c.dtype, x.shape());
    sums = {memory_.zeros(DType::f32, {experts_}), memory_.zeros(DType::i64, {experts_}),
            memory_.zeros(DType::f32, {1})};
    layer = std::make_unique<MoeLayer>(config, weights, mesh, recompute);
  }

  void forward_backward() {
    const Context ctx{workspace_};
    layer->forward(ctx, saved_, x, y, sums, kept);
    const std::size_t in_use = saved_.in_use();
    saved_bytes = in_use;
    layer->backward(ctx, dy, x, kept, {}, dx, Accumulation::write);
  }

  MoeWeights weights;
  Tensor x, dy, y, dx;
  RouterSums sums;
  MoeSaved kept;
  std::unique_ptr<MoeLayer> layer;
  std::size_t saved_bytes = 0;

 private:
  Tensor filled(const std::string& name, const Shape& shape, std::int64_t first, double scale, DType dtype) {
    const Rng rng(7, name);
    std::vector<double> values;
    for (std::int64_t i = 0; i < shape.numel(); ++i)
      values.push_back(scale * rng.normal(static_cast<std::uint64_t>(first + i)));
    const Tensor t = memory_.tensor(dtype, shape);
    from_doubles(values, t);
    return t;
  }
  Weight weight(const std::string& name, const Shape& global, const Sharding& sharding, double scale,
                DType dtype) {
    const Tensor value = memory_.tensor(dtype, sharding.local_shape(global));
    const Rng rng(7, name);
    std::vector<double> values;
    for (std::int64_t i = 0; i < value.numel(); ++i)
      values.push_back(scale * rng.normal(static_cast<std::uint64_t>(global_index(global, sharding, i))));
    from_doubles(values, value);
    return {value, memory_.zeros(DType::f32, value.shape())};
  }

  LayerCase case_;
  std::int64_t experts_;
  Arena memory_, saved_, workspace_;
};

inline MoeConfig config_of(const LayerCase& c, int world_size) {
  MoeConfig config;
  config.router.experts = c.experts_per_rank * world_size;
  config.router.top_k = std::min(c.top_k, config.router.experts);
  config.router.score_function = c.score;
  config.router.pre_softmax = true;
  config.router.expert_bias = c.favoured >= 0;
  config.ffn_hidden = c.ffn;
  config.shared_ffn_hidden = c.shared;
  config.activation = c.activation;
  return config;
}

// Largest difference relative to the largest magnitude.
inline double difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.numel(), b.numel());
  const std::vector<double> actual = to_doubles(a);
  const std::vector<double> expected = to_doubles(b);
  double worst = 0.0;
  double scale = 1e-30;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double d = std::abs(actual[i] - expected[i]);
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    scale = std::max(scale, std::abs(expected[i]));
  }
  return worst / scale;
}

}  // namespace xmoe
