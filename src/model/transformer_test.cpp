// The model as a whole. Parity with PyTorch and equality over ranks are tested in tests/.
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "support/compare.h"

namespace xmoe {
namespace {

ModelConfig small_model() {
  ModelConfig c;
  c.layers = 3;
  c.hidden = 24;
  c.ffn_hidden = 40;
  c.heads = 4;
  c.kv_heads = 2;
  c.vocabulary = 50;
  c.seq_length = 9;
  c.norm = NormKind::rms_norm;
  c.first_k_dense = 1;
  c.moe.router.experts = 6;
  c.moe.router.top_k = 2;
  c.moe.router.pre_softmax = true;
  c.moe.router.aux_loss_coeff = 1e-2;
  c.moe.router.z_loss_coeff = 1e-3;
  c.moe.ffn_hidden = 12;
  c.moe.shared_ffn_hidden = 8;
  c.moe.activation = Activation::swiglu;
  c.resolve();
  return c;
}

class TransformerTest : public testing::Test {
 protected:
  TransformerTest() : world(make_self_communicator()), mesh(*world, 1), memory({}, MemoryTag::workspace) {}

  // A batch that differs with `number`.
  void fill_batch(const ModelConfig& c, std::int64_t batch, std::uint64_t number) {
    tokens = memory.tensor(DType::i32, {batch * c.seq_length});
    targets = memory.tensor(DType::i32, {batch * c.seq_length});
    const Rng rng(number, "batch");
    for (std::int64_t i = 0; i < tokens.dim(0); ++i) {
      tokens.data<std::int32_t>()[i] =
          static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(2 * i), 50));
      targets.data<std::int32_t>()[i] =
          static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(2 * i + 1), 50));
    }
  }
  static std::int64_t allocations(const Transformer& model) {
    std::int64_t n = 0;
    for (const auto* arena : model.arenas()) n += arena->device_allocations();
    return n;
  }

  std::unique_ptr<Communicator> world;
  Mesh mesh;
  Arena memory;
  Tensor tokens, targets;
};

TEST_F(TransformerTest, SteadyStateAllocatesNothing) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Transformer model(small_model(), dtype, mesh, 1, true);
    // Warm-up: the first step finds out how much is needed, the second begins with it in one piece.
    fill_batch(model.config(), 3, 0);
    for (int i = 0; i < 2; ++i) model.forward_backward(tokens, targets, 3, 1.0);
    const std::int64_t before = allocations(model);
    // Without dropping, every batch routes the same number of rows in all, however they fall on the experts.
    for (std::uint64_t i = 1; i < 6; ++i) {
      fill_batch(model.config(), 3, i);
      model.forward_backward(tokens, targets, 3, 1.0);
    }
    EXPECT_EQ(allocations(model), before);
  }
}

TEST_F(TransformerTest, EveryGradientAgreesWithFiniteDifferences) {
  // f32 throughout: differences are good to a few digits, which is enough to find a term that is missing or
  // wrong between ops.
  ModelConfig c = small_model();
  Transformer model(c, DType::f32, mesh, 3, true);
  for (auto& p : model.parameters().all())  // larger than at initialisation, so that the loss bends
    for (std::int64_t i = 0; i < p.value.numel(); ++i)
      p.value.data<float>()[i] *= p.value.rank() > 1 ? 10.0F : 1.0F;
  // A batch in which every choice of experts is clear: at a tie the loss jumps, and has no slope.
  fill_batch(c, 2, 8);
  model.clear_gradients();
  model.forward_backward(tokens, targets, 2, 1.0);
  std::vector<std::vector<float>> gradients;
  for (const auto& p : model.parameters().all())
    gradients.emplace_back(p.grad.data<float>(), p.grad.data<float>() + p.grad.numel());
  const auto loss = [&] {
    const MicroBatchResult r = model.forward_backward(tokens, targets, 2, 1.0);
    return r.lm_loss + r.aux_loss + r.z_loss;
  };
  std::size_t index = 0;
  for (auto& p : model.parameters().all()) {
    // Along the gradient itself: the slope is its norm, large against the rounding of the loss.
    const auto& g = gradients[index++];
    double norm = 0.0;
    for (const float v : g) norm += static_cast<double>(v) * static_cast<double>(v);
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0.0) << p.name;
    const double step = 2e-3;
    const std::vector<float> kept(p.value.data<float>(), p.value.data<float>() + p.value.numel());
    double values[2];
    for (int side = 0; side < 2; ++side) {
      for (std::size_t i = 0; i < g.size(); ++i)
        p.value.data<float>()[i] = kept[i] + static_cast<float>((side == 0 ? step : -step) / norm) * g[i];
      values[side] = loss();
    }
    std::copy(kept.begin(), kept.end(), p.value.data<float>());
    EXPECT_NEAR((values[0] - values[1]) / (2.0 * step), norm, 0.02 * norm + 2e-3) << p.name;
  }
}

// Whatever gradients held before, a step has its own; in the flat buffers zeros still fill up the stages.
TEST_F(TransformerTest, StepsDoNotSeeEarlierGradients) {
  for (const std::int64_t chunks : {1, 2}) {
    SCOPED_TRACE(fmt::format("{} chunks", chunks));
    ModelConfig c = small_model();
    c.moe.overlap_chunks = chunks;
    const auto step = [&](Transformer& model) {
      model.clear_gradients();
      for (std::uint64_t i = 0; i < 2; ++i) {
        fill_batch(c, 2, i);
        model.forward_backward(tokens, targets, 2, 1.0);
      }
    };
    Transformer fresh(c, DType::f32, mesh, 3, true);
    step(fresh);
    Transformer used(c, DType::f32, mesh, 3, true);
    step(used);
    for (const auto& p : used.parameters().all())
      std::fill_n(p.grad.data<float>(), p.grad.numel(), std::numeric_limits<float>::quiet_NaN());
    step(used);
    for (std::size_t g = 0; g < fresh.parameters().groups().size(); ++g)
      EXPECT_OK(compare_bits(used.parameters().groups()[g].gradients,
                             fresh.parameters().groups()[g].gradients, "gradients"));
  }
}

TEST_F(TransformerTest, GradientsAreSumsOverMicroBatchesAndChunks) {
  const auto gradients_of = [&](std::int64_t chunks, std::initializer_list<std::uint64_t> batches) {
    ModelConfig c = small_model();
    c.moe.overlap_chunks = chunks;
    Transformer model(c, DType::f32, mesh, 3, true);
    model.clear_gradients();
    for (const std::uint64_t number : batches) {
      fill_batch(c, 2, number);
      model.forward_backward(tokens, targets, 2, 1.0);
    }
    std::vector<std::vector<double>> gradients;
    for (const auto& p : model.parameters().all()) gradients.push_back(to_doubles(p.grad));
    return gradients;
  };
  const auto first = gradients_of(1, {0});
  const auto second = gradients_of(1, {1});
  const auto both = gradients_of(2, {0, 1});
  for (std::size_t p = 0; p < both.size(); ++p) {
    std::vector<double> sum = first[p];
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += second[p][i];
    EXPECT_OK(compare(both[p], sum, tolerance_for(DType::f32, /*terms=*/100), fmt::format("gradient {}", p)));
  }
}

// The zeros would be most of the bytes that clear_gradients() writes.
TEST_F(TransformerTest, ClearingLeavesExpertsToTheNextMicroBatch) {
  Transformer model(small_model(), DType::f32, mesh, 3, true);
  fill_batch(model.config(), 2, 0);
  model.forward_backward(tokens, targets, 2, 1.0);
  for (const auto& group : model.parameters().groups())
    std::fill_n(group.gradients.data<float>(), group.gradients.numel(), 1.0F);
  model.clear_gradients();
  for (const auto& p : model.parameters().all()) {
    const bool experts = p.name.find(".moe.experts.") != std::string::npos;
    for (const std::int64_t i : {std::int64_t{0}, p.grad.numel() - 1})
      EXPECT_EQ(p.grad.data<float>()[i], experts ? 1.0F : 0.0F) << p.name;
  }
  EXPECT_THROW(static_cast<void>(model.locate_non_finite()), InvariantError);
}

// What is computed again comes out bit for bit, and is not kept.
TEST_F(TransformerTest, RecomputationChangesNoBit) {
  struct Outcome {
    MicroBatchResult result;
    std::vector<std::vector<float>> gradients;
    std::size_t saved = 0;
    std::size_t moe_saved = 0;
  };
  const auto run = [&](const RecomputeConfig& recompute) {
    ModelConfig c = small_model();
    c.recompute = recompute;
    Transformer model(c, DType::f32, mesh, 3, true);
    fill_batch(c, 2, 8);
    Outcome o;
    o.result = model.forward_backward(tokens, targets, 2, 1.0);
    for (const auto& p : model.parameters().all())
      o.gradients.emplace_back(p.grad.data<float>(), p.grad.data<float>() + p.grad.numel());
    o.saved = model.high_water(MemoryTag::saved);
    o.moe_saved = model.moe_saved_bytes(2);
    return o;
  };
  const Outcome kept = run({});
  for (const RecomputeConfig& recompute :
       {RecomputeConfig{.attention = true}, RecomputeConfig{.mlp = true}, RecomputeConfig{.moe = true},
        RecomputeConfig{.layer = true},
        RecomputeConfig{.attention = true, .mlp = true, .moe = true, .layer = true}}) {
    SCOPED_TRACE(fmt::format("attention {} mlp {} moe {} layer {}", recompute.attention, recompute.mlp,
                             recompute.moe, recompute.layer));
    const Outcome again = run(recompute);
    EXPECT_EQ(again.result.lm_loss, kept.result.lm_loss);
    EXPECT_EQ(again.result.aux_loss, kept.result.aux_loss);
    EXPECT_EQ(again.result.z_loss, kept.result.z_loss);
    EXPECT_EQ(again.gradients, kept.gradients);
    EXPECT_LT(again.saved, kept.saved);
    if (recompute.mlp || recompute.moe || recompute.layer) {
      EXPECT_LT(again.moe_saved, kept.moe_saved);
    }
  }
}

// Full recomputation keeps the residual stream at the layers' boundaries, and the routing.
TEST_F(TransformerTest, FullRecomputationKeepsStreamsAndRouting) {
  ModelConfig c = small_model();
  c.recompute.layer = true;
  Transformer model(c, DType::f32, mesh, 3, true);
  fill_batch(c, 2, 8);
  model.forward_backward(tokens, targets, 2, 1.0);
  const std::size_t rows = 2 * static_cast<std::size_t>(c.seq_length);
  std::size_t bytes = static_cast<std::size_t>(c.layers + 1) * rows * 24 * sizeof(float);
  for (const std::int64_t l : {1, 2}) bytes += model.moe_saved_bytes(l);
  EXPECT_GE(model.high_water(MemoryTag::saved), bytes);
  EXPECT_LT(model.high_water(MemoryTag::saved), bytes + 30 * 64) << "but for rounding to cache lines";
}

TEST_F(TransformerTest, DecodingEqualsTheForwardOfTheWholeSequence) {
  ModelConfig config = small_model();
  config.moe.capacity_factor = 0.25;  // would drop something in the whole sequence, nothing in a position
  config.moe.min_capacity = 1;
  Transformer model(config, DType::f32, mesh, 5, false);
  fill_batch(model.config(), 2, 1);
  const std::int64_t seq = model.config().seq_length;
  const std::int64_t vocabulary = model.config().vocabulary;
  const Tensor whole = memory.tensor(DType::f32, {2 * seq, vocabulary});
  model.logits(tokens, 2, whole);
  KeyValueCache cache = model.make_cache(memory, 2);
  const Tensor token = memory.tensor(DType::i32, {2});
  const Tensor one = memory.tensor(DType::f32, {2, vocabulary});
  for (std::int64_t s = 0; s < seq; ++s) {
    for (std::int64_t b = 0; b < 2; ++b)
      token.data<std::int32_t>()[b] = tokens.data<std::int32_t>()[b * seq + s];
    model.decode(token, cache, one);
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t v = 0; v < vocabulary; ++v)
        ASSERT_NEAR(one.data<float>()[b * vocabulary + v],
                    whole.data<float>()[(b * seq + s) * vocabulary + v], 1e-5)
            << "position " << s;
  }
  EXPECT_THROW(model.decode(token, cache, one), InvariantError);
}

TEST_F(TransformerTest, EvaluationGivesTheLossOfTraining) {
  Transformer model(small_model(), DType::f32, mesh, 5, true);
  fill_batch(model.config(), 2, 1);
  targets.data<std::int32_t>()[4] = kIgnoredTarget;
  const Tensor losses = memory.tensor(DType::f32, {tokens.dim(0)});
  model.evaluate(tokens, targets, 2, losses);
  double sum = 0.0;
  for (std::int64_t i = 0; i < losses.dim(0); ++i) sum += static_cast<double>(losses.data<float>()[i]);
  EXPECT_EQ(losses.data<float>()[4], 0.0F);
  const MicroBatchResult r = model.forward_backward(tokens, targets, 2, 1.0);
  EXPECT_NEAR(r.lm_loss, sum / static_cast<double>(tokens.dim(0) - 1), 1e-6);
}

TEST_F(TransformerTest, EvaluationDropsNothing) {
  const auto losses_with = [&](std::optional<double> capacity_factor, DispatcherKind dispatcher) {
    ModelConfig c = small_model();
    c.moe.capacity_factor = capacity_factor;
    c.moe.min_capacity = 1;
    c.moe.dispatcher = dispatcher;
    Transformer model(c, DType::f32, mesh, 5, true);
    fill_batch(c, 2, 1);
    const std::int64_t dropped = model.forward_backward(tokens, targets, 2, 1.0).dropped;
    EXPECT_EQ(dropped > 0, capacity_factor.has_value());
    const Tensor losses = memory.tensor(DType::f32, {tokens.dim(0)});
    model.evaluate(tokens, targets, 2, losses);
    return std::vector<float>(losses.data<float>(), losses.data<float>() + losses.numel());
  };
  const auto all = losses_with(std::nullopt, DispatcherKind::flat);
  EXPECT_EQ(losses_with(0.25, DispatcherKind::flat), all);
  EXPECT_EQ(losses_with(0.25, DispatcherKind::padded), all);
}

TEST_F(TransformerTest, NamesWhereAValueStopsBeingFinite) {
  const auto located = [&](const std::string& name) {
    Transformer model(small_model(), DType::f32, mesh, 5, true);
    fill_batch(model.config(), 2, 1);
    for (auto& p : model.parameters().all())
      if (p.name == name) p.value.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    model.forward_backward(tokens, targets, 2, 1.0);
    const auto place = model.locate_non_finite();
    return place ? place->name : "";
  };
  EXPECT_EQ(located("nothing"), "");
  EXPECT_EQ(located("layers.1.attention.out"), "the output of attention in layer 1");
  EXPECT_EQ(located("layers.2.moe.router.weight"), "the router logits of layer 2");
  EXPECT_EQ(located("layers.1.moe.shared.w2"), "the output of layer 1");
  EXPECT_EQ(located("layers.2.moe.shared.w2"), "the output of layer 2");
  EXPECT_EQ(located("final_norm.weight"), "the gradient of final_norm.weight");
}

TEST_F(TransformerTest, BiasMovesTowardsEvenLoad) {
  ModelConfig c = small_model();
  c.moe.router.score_function = ScoreFunction::sigmoid;
  c.moe.router.expert_bias = true;
  c.moe.router.bias_update_rate = 0.5;
  Transformer model(c, DType::f32, mesh, 5, true);
  fill_batch(c, 2, 1);
  model.clear_counts();
  model.forward_backward(tokens, targets, 2, 1.0);
  model.update_expert_bias();
  const auto* counts = model.expert_counts()[0].data<std::int64_t>();
  std::int64_t total = 0;
  for (int e = 0; e < 6; ++e) total += counts[e];
  EXPECT_EQ(total, 2 * 9 * 2);
  for (const auto& p : model.parameters().all()) {
    if (p.name != "layers.1.moe.router.bias") continue;
    for (int e = 0; e < 6; ++e) {
      const float expected = counts[e] * 6 < total ? 0.5F : counts[e] * 6 > total ? -0.5F : 0.0F;
      EXPECT_EQ(p.value.data<float>()[e], expected) << "expert " << e << " with " << counts[e];
    }
  }
}

}  // namespace
}  // namespace xmoe
