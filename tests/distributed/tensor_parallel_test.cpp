// A model cut over tensor-parallel ranks against the whole: every element of every gradient, losses, logits
// and generation.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "distributed/support.h"
#include "model/transformer.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "support/shard_elements.h"

namespace xmoe {
namespace {

using distributed::world;

ModelConfig small_model() {
  ModelConfig c;
  c.layers = 3;
  c.hidden = 24;
  c.ffn_hidden = 20;
  c.heads = 8;
  c.kv_heads = 4;
  c.head_dim = 6;
  c.vocabulary = 40;
  c.seq_length = 8;
  c.norm = NormKind::layer_norm;
  c.first_k_dense = 1;
  c.tied_embeddings = false;
  c.moe.router.experts = 8;
  c.moe.router.top_k = 2;
  c.moe.router.pre_softmax = true;
  c.moe.router.aux_loss_coeff = 1e-2;
  c.moe.router.z_loss_coeff = 1e-3;
  c.moe.ffn_hidden = 12;
  c.moe.shared_ffn_hidden = 8;
  c.moe.activation = Activation::swiglu;
  c.init_std = 0.3;  // so that every term counts
  c.resolve();
  return c;
}

// Sequences of this rank's part of a micro-batch of kSequences.
constexpr std::int64_t kSequences = 8;

struct Batch {
  Batch(const ModelConfig& c, const Mesh& mesh)
      : sequences(kSequences / mesh.dp().size()), memory({}, MemoryTag::workspace) {
    const std::int64_t rows = sequences * c.seq_length;
    tokens = memory.tensor(DType::i32, {rows});
    targets = memory.tensor(DType::i32, {rows});
    const Rng rng(21, "batch");
    const auto words = static_cast<std::uint64_t>(c.vocabulary);
    for (std::int64_t i = 0; i < rows; ++i) {
      const auto number = static_cast<std::uint64_t>(mesh.dp().rank() * rows + i);
      tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(rng.below(2 * number, words));
      targets.data<std::int32_t>()[i] =
          number % 7 == 3 ? kIgnoredTarget : static_cast<std::int32_t>(rng.below(2 * number + 1, words));
    }
  }

  std::int64_t sequences;
  Arena memory;
  Tensor tokens, targets;
};

std::vector<ParallelLayout> layouts() {
  const int n = world().size();
  std::vector<ParallelLayout> all;
  for (const int tp : {1, 2, 4}) {
    if (n % tp != 0) continue;
    all.push_back({.tensor = tp, .expert = n});
    if (tp > 1) all.push_back({.tensor = tp, .expert = n / tp, .expert_tensor = true});
  }
  return all;
}

std::string describe(const ParallelLayout& layout) {
  return fmt::format("tp {} ep {} {}", layout.tensor, layout.expert, layout.expert_tensor ? "TED" : "SSMB");
}

// Elements agree to a few units of f32 against the largest of their tensor.
void expect_near(const float* a, const float* b, std::int64_t n, const std::string& what) {
  double scale = 0.0;
  double worst = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    scale = std::max(scale, std::abs(static_cast<double>(b[i])));
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  EXPECT_LE(worst, 2e-5 * scale) << what;
}

TEST(TensorParallel, EveryGradientIsThatOfOneRank) {
  for (const bool tied : {false, true}) {
    for (const auto activation : {Activation::swiglu, Activation::gelu}) {
      ModelConfig config = small_model();
      config.tied_embeddings = tied;
      config.moe.activation = activation;
      const auto self = make_self_communicator();
      Mesh alone(*self, 1);
      Transformer one(config, DType::f32, alone, 3, true);
      const Batch whole(config, alone);
      const MicroBatchResult expected = one.forward_backward(whole.tokens, whole.targets, kSequences, 1.0);
      for (const ParallelLayout& layout : layouts()) {
        SCOPED_TRACE(describe(layout));
        Mesh mesh(world(), layout);
        Transformer model(config, DType::f32, mesh, 3, true);
        const Batch batch(config, mesh);
        std::vector<int> stages;
        const MicroBatchResult result = model.forward_backward(
            batch.tokens, batch.targets, batch.sequences, 1.0, [&](int stage) { stages.push_back(stage); });
        EXPECT_EQ(stages, (std::vector<int>{4, 3, 2, 1, 0}));
        EXPECT_NEAR(result.lm_loss, expected.lm_loss, 1e-6 * expected.lm_loss);
        EXPECT_NEAR(result.aux_loss, expected.aux_loss, 1e-5 * expected.aux_loss);
        EXPECT_NEAR(result.z_loss, expected.z_loss, 1e-5 * expected.z_loss);
        EXPECT_EQ(world().all_reduce(result.assignments, ReduceOp::sum), expected.assignments);
        for (std::size_t i = 0; i < model.parameters().all().size(); ++i) {
          const Parameter& p = model.parameters().all()[i];
          const Parameter& q = one.parameters().all()[i];
          ASSERT_EQ(p.name, q.name);
          replicas(mesh, p.replication).all_reduce(p.grad, ReduceOp::sum);
          std::vector<float> part;
          for (std::int64_t e = 0; e < p.grad.numel(); ++e)
            part.push_back(q.grad.data<float>()[global_index(p.global_shape, p.sharding, e)]);
          expect_near(p.grad.data<float>(), part.data(), p.grad.numel(), p.name);
        }
      }
    }
  }
}

TEST(TensorParallel, LossesAndLogitsAreThoseOfOneRank) {
  const ModelConfig config = small_model();
  const auto self = make_self_communicator();
  Mesh alone(*self, 1);
  Transformer one(config, DType::f32, alone, 3, false);
  for (const ParallelLayout& layout : layouts()) {
    SCOPED_TRACE(describe(layout));
    Mesh mesh(world(), layout);
    Transformer model(config, DType::f32, mesh, 3, false);
    Batch batch(config, mesh);
    const std::int64_t rows = batch.tokens.dim(0);
    const auto compare = [&](const Shape& shape, const auto& compute) {
      const Tensor a = batch.memory.tensor(DType::f32, shape);
      const Tensor b = batch.memory.tensor(DType::f32, shape);
      compute(model, a);
      compute(one, b);
      expect_near(a.data<float>(), b.data<float>(), a.numel(), to_string(shape));
    };
    compare({rows}, [&](Transformer& m, const Tensor& out) {
      m.evaluate(batch.tokens, batch.targets, batch.sequences, out);
    });
    compare({rows, config.vocabulary},
            [&](Transformer& m, const Tensor& out) { m.logits(batch.tokens, batch.sequences, out); });
  }
}

TEST(TensorParallel, DecodingIsThatOfOneRank) {
  const ModelConfig config = small_model();
  const auto self = make_self_communicator();
  Mesh alone(*self, 1);
  Transformer one(config, DType::f32, alone, 3, false);
  Arena memory({}, MemoryTag::workspace);
  const Tensor tokens = memory.tensor(DType::i32, {3});
  const Tensor a = memory.tensor(DType::f32, {3, config.vocabulary});
  const Tensor b = memory.tensor(DType::f32, {3, config.vocabulary});
  for (const ParallelLayout& layout : layouts()) {
    SCOPED_TRACE(describe(layout));
    Mesh mesh(world(), layout);
    Transformer model(config, DType::f32, mesh, 3, false);
    KeyValueCache cache = model.make_cache(memory, 3);
    KeyValueCache whole = one.make_cache(memory, 3);
    for (std::int32_t s = 0; s < 5; ++s) {
      for (std::int32_t i = 0; i < 3; ++i) tokens.data<std::int32_t>()[i] = (7 * s + 11 * i) % 40;
      model.decode(tokens, cache, a);
      one.decode(tokens, whole, b);
      expect_near(a.data<float>(), b.data<float>(), a.numel(), fmt::format("position {}", s));
    }
  }
}

TEST(TensorParallel, RecomputationChangesNoBit) {
  for (const ParallelLayout& layout : layouts()) {
    SCOPED_TRACE(describe(layout));
    Mesh mesh(world(), layout);
    const auto gradients = [&](const RecomputeConfig& recompute) {
      ModelConfig config = small_model();
      config.recompute = recompute;
      Transformer model(config, DType::f32, mesh, 3, true);
      const Batch batch(config, mesh);
      model.forward_backward(batch.tokens, batch.targets, batch.sequences, 1.0);
      std::vector<float> all;
      for (const auto& p : model.parameters().all())
        all.insert(all.end(), p.grad.data<float>(), p.grad.data<float>() + p.grad.numel());
      return all;
    };
    const std::vector<float> kept = gradients({});
    EXPECT_EQ(gradients({.attention = true, .mlp = true, .moe = true}), kept);
    EXPECT_EQ(gradients({.layer = true}), kept);
  }
}

TEST(TensorParallel, NamesTheTokenOutsideTheVocabulary) {
  const ModelConfig config = small_model();
  Mesh mesh(world(), ParallelLayout{.tensor = std::min(4, world().size()), .expert = 1});
  Transformer model(config, DType::f32, mesh, 3, false);
  Batch batch(config, mesh);
  const Tensor losses = batch.memory.tensor(DType::f32, {batch.tokens.dim(0)});
  for (const std::int32_t bad : {-1, 40}) {
    batch.tokens.data<std::int32_t>()[5] = bad;
    try {
      model.evaluate(batch.tokens, batch.targets, batch.sequences, losses);
      FAIL() << bad << " was accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(fmt::format("token id {} at position 5", bad)), std::string::npos)
          << e.what();
    }
  }
}

}  // namespace
}  // namespace xmoe
