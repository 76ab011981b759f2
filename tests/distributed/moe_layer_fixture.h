// An MoE layer with one batch, laid out over ranks: what the tests of the layer share. Values are functions
// of a name and an index in the whole, so that every layout has its part of the same weights and tokens.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "comm/mesh.h"
#include "model/parameter.h"
#include "moe/layer.h"

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
        memory_({}, MemoryTag::parameters),
        saved_({}, MemoryTag::saved),
        workspace_({}, MemoryTag::workspace) {
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
    if (c.shared > 0) {
      weights.shared_w1 =
          weight("shared_w1", {1, preactivation_width(c.activation, c.shared), c.hidden}, {}, 0.3, c.dtype);
      weights.shared_w2 = weight("shared_w2", {1, c.hidden, c.shared}, {}, 0.3, c.dtype);
    }
    if (c.favoured >= 0) {
      weights.router_bias = memory_.zeros(DType::f32, {experts_});
      weights.router_bias.data<float>()[c.favoured % experts_] = 100.0F;
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
    layer->backward(ctx, dy, x, kept, {}, dx);
  }

  MoeWeights weights;
  Tensor x, dy, y, dx;
  RouterSums sums;
  MoeSaved kept;
  std::unique_ptr<MoeLayer> layer;
  std::size_t saved_bytes = 0;

 private:
  static void set(const Tensor& t, std::int64_t i, double value) {
    if (t.dtype() == DType::f32) {
      t.data<float>()[i] = static_cast<float>(value);
    } else {
      t.data<bf16>()[i] = bf16(static_cast<float>(value));
    }
  }
  Tensor filled(const std::string& name, const Shape& shape, std::int64_t first, double scale, DType dtype) {
    const Tensor t = memory_.tensor(dtype, shape);
    const Rng rng(7, name);
    for (std::int64_t i = 0; i < t.numel(); ++i)
      set(t, i, scale * rng.normal(static_cast<std::uint64_t>(first + i)));
    return t;
  }
  Weight weight(const std::string& name, const Shape& global, const Sharding& sharding, double scale,
                DType dtype) {
    const Tensor value = memory_.tensor(dtype, sharding.local_shape(global));
    const Rng rng(7, name);
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      const auto index = static_cast<std::uint64_t>(sharding.global_index(global, i));
      set(value, i, scale * rng.normal(index));
    }
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

inline double value_at(const Tensor& t, std::int64_t i) {
  return static_cast<double>(t.dtype() == DType::f32 ? t.data<float>()[i]
                                                     : static_cast<float>(t.data<bf16>()[i]));
}

// Largest difference relative to the largest magnitude.
inline double difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.numel(), b.numel());
  double worst = 0.0;
  double scale = 1e-30;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double d = std::abs(value_at(a, i) - value_at(b, i));
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    scale = std::max(scale, std::abs(value_at(b, i)));
  }
  return worst / scale;
}

}  // namespace xmoe
