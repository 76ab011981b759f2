// The optimizer on layouts of several parallel dimensions: sums, norm, updates and memory with ZeRO and
// without; and trainings with either, also when a checkpoint moves them to another layout.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "distributed/support.h"
#include "model/transformer.h"
#include "support/compare.h"
#include "support/shard_elements.h"
#include "support/sharded_parameters.h"
#include "train/checkpointing.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

using distributed::SharedDirectory;
using distributed::world;
using test::Layout;
using test::ShardedParameters;

// Gradients of a step are sums over ranks of small integers over 16: exact, in whatever order they are taken,
// so that layouts can be compared to the bit. This is the sum.
float gradient(const std::string& name, std::int64_t index, int step) {
  const Rng rng(static_cast<std::uint64_t>(step), name);
  return static_cast<float>(rng.below(static_cast<std::uint64_t>(index), 65)) / 16.0F - 2.0F;
}

struct Result {
  std::vector<double> norms;
  std::vector<float> values;  // of this rank, of all parameters in order
  std::vector<std::vector<std::byte>> moments;
};

Result update(Communicator& ranks, const Layout& layout, DType dtype, int steps, float loss_scale = 1.0F) {
  Mesh mesh(ranks, layout.parallel);
  ShardedParameters parameters(mesh, dtype);
  OptimizerConfig config;
  config.weight_decay = 0.1;
  Optimizer optimizer(config, parameters.set, mesh, layout.zero_stage, /*bucket_elements=*/100);
  Arena workspace({}, MemoryTag::workspace);
  Result result;
  for (int step = 0; step < steps; ++step) {
    for (const auto& p : parameters.set.all()) {
      if (!p.trainable) continue;
      const Communicator& group = replicas(mesh, p.replication);
      for (std::int64_t i = 0; i < p.grad.numel(); ++i) {
        const float whole = gradient(p.name, global_index(p.global_shape, p.sharding, i), step);
        // The last replica makes up for the others.
        const auto others = static_cast<float>(group.size() - 1);
        p.grad.data<float>()[i] =
            loss_scale * (group.rank() + 1 < group.size() ? 0.25F : whole - 0.25F * others);
      }
    }
    for (int stage = 3; stage > 0; --stage) optimizer.start_reduction(stage);  // 0 is left to the end
    optimizer.reduce_gradients();
    const double norm = optimizer.gradient_norm({workspace}, loss_scale);
    optimizer.step({workspace}, 1e-2, norm, loss_scale);
    result.norms.push_back(norm);
  }
  EXPECT_EQ(optimizer.steps(), steps);
  for (const auto& s : optimizer.states())
    for (const Tensor& moment : {s.m, s.v})
      if (moment.defined()) result.moments.push_back(bytes_of(moment));
  for (const auto& p : parameters.set.all())
    for (std::int64_t i = 0; i < p.value.numel(); ++i)
      with_float(p.value.dtype(),
                 [&]<typename T>(T) { result.values.push_back(static_cast<float>(p.value.data<T>()[i])); });
  return result;
}

// The parameters of one rank that holds all, at the places of this rank's parts.
std::vector<float> parts_of(const std::vector<float>& whole, const Layout& layout, DType dtype) {
  const Mesh mesh(world(), layout.parallel);
  const ShardedParameters parameters(mesh, dtype);
  std::vector<float> parts;
  std::int64_t begin = 0;
  for (const auto& p : parameters.set.all()) {
    for (std::int64_t i = 0; i < p.value.numel(); ++i)
      parts.push_back(whole[static_cast<std::size_t>(begin + global_index(p.global_shape, p.sharding, i))]);
    begin += p.global_shape.numel();
  }
  return parts;
}

// Trainings of eight ranks take long where there are fewer cores: there, one 16-bit type stands for both.
std::vector<DType> dtypes_of_trainings() {
  if (world().size() > 4) return {DType::f32, DType::f16};
  return {DType::f32, DType::bf16, DType::f16};
}

TEST(Optimizer, EveryLayoutUpdatesAsOneRank) {
  constexpr int kSteps = 3;
  const auto alone = make_self_communicator();
  for (const DType dtype : dtypes_of_trainings()) {
    const Result one = update(*alone, {}, dtype, kSteps);
    double squares = 0.0;
    {
      const Mesh mesh(*alone, 1);
      const ShardedParameters parameters(mesh, dtype);
      for (const auto& p : parameters.set.all())
        for (std::int64_t i = 0; p.trainable && i < p.value.numel(); ++i)
          squares += std::pow(static_cast<double>(gradient(p.name, i, 0)), 2);
    }
    EXPECT_NEAR(one.norms[0], std::sqrt(squares), 1e-9 * one.norms[0]);
    EXPECT_GT(one.norms[0], OptimizerConfig{}.clip_grad) << "nothing is clipped: the norm would not matter";
    for (const Layout& layout : test::all_layouts(world().size(), 4)) {
      SCOPED_TRACE(to_string(layout));
      const Result many = update(world(), layout, dtype, kSteps);
      // Squares of these gradients are exact in double, and so are their sums.
      EXPECT_EQ(many.norms, one.norms);
      EXPECT_EQ(many.values, parts_of(one.values, layout, dtype));
    }
  }
}

// A scale that is a power of two changes no bit of norms, moments and values.
TEST(Optimizer, ScaledGradientsUpdateAsUnscaledOnes) {
  for (const DType dtype : {DType::f32, DType::f16}) {
    for (const std::int64_t zero_stage : {0, 1}) {
      const Result plain = update(world(), {{}, zero_stage}, dtype, 3);
      const Result scaled = update(world(), {{}, zero_stage}, dtype, 3, 0x1p24F);
      EXPECT_EQ(scaled.norms, plain.norms);
      EXPECT_EQ(scaled.moments, plain.moments);
      EXPECT_EQ(scaled.values, plain.values);
    }
  }
}

TEST(Optimizer, WhatIsNotFiniteOnOneRankIsSeenByAll) {
  for (const Layout& layout : test::all_layouts(world().size(), 4)) {
    Mesh mesh(world(), layout.parallel);
    ShardedParameters parameters(mesh, DType::f32);
    Optimizer optimizer({}, parameters.set, mesh, layout.zero_stage, /*bucket_elements=*/100);
    Arena workspace({}, MemoryTag::workspace);
    for (const auto& p : parameters.set.all()) {
      if (!p.trainable) continue;
      for (const auto& g : parameters.set.groups())
        std::fill_n(g.gradients.data<float>(), g.gradients.numel(), 0.0F);
      if (world().rank() == world().size() - 1)
        p.grad.data<float>()[p.grad.numel() - 1] = std::numeric_limits<float>::infinity();
      optimizer.reduce_gradients();
      EXPECT_FALSE(std::isfinite(optimizer.gradient_norm({workspace}))) << to_string(layout) << ' ' << p.name;
    }
  }
}

TEST(Optimizer, StateIsTheTotalOverTheReplicas) {
  for (const DType dtype : dtypes_of_trainings()) {
    for (const Layout& layout : test::all_layouts(world().size(), 4)) {
      SCOPED_TRACE(to_string(layout));
      Mesh mesh(world(), layout.parallel);
      ShardedParameters parameters(mesh, dtype);
      const Optimizer optimizer({}, parameters.set, mesh, layout.zero_stage, /*bucket_elements=*/100);
      // Two moments in f32, and 16 bits of remainder beside a bf16 value.
      std::size_t expected = 0;
      for (const auto& g : parameters.set.groups()) {
        const std::int64_t parts = layout.zero_stage == 1 ? replicas(mesh, g.replication).size() : 1;
        ASSERT_EQ(g.values.numel() % parts, 0);
        const auto size = static_cast<std::size_t>(g.values.numel() / parts);
        expected += 2 * Arena::aligned(4 * size) + (g.dtype == DType::f32 ? 0 : Arena::aligned(2 * size));
      }
      EXPECT_EQ(optimizer_bytes(parameters.set.groups(), {}, layout.zero_stage), expected);
      EXPECT_EQ(optimizer.arena().reserved(), expected);
      EXPECT_EQ(optimizer.arena().in_use(), expected);
    }
  }
}

constexpr std::int64_t kSequences = 8;  // of the global batch

ModelConfig small_model(DType expert_gradients = DType::f32) {
  ModelConfig c;
  c.expert_gradients = expert_gradients;
  c.layers = 2;
  c.hidden = 32;
  c.ffn_hidden = 48;
  c.heads = 4;
  c.kv_heads = 4;  // for four tensor-parallel ranks
  c.vocabulary = 64;
  c.seq_length = 12;
  c.first_k_dense = 1;
  c.moe.router.experts = 8;
  c.moe.router.top_k = 3;
  c.moe.router.aux_loss_coeff = 1e-2;
  c.moe.router.expert_bias = true;
  c.moe.router.score_function = ScoreFunction::sigmoid;
  c.moe.ffn_hidden = 16;
  c.moe.activation = Activation::swiglu;
  c.resolve();
  return c;
}

void fill_batch(std::int64_t step, std::int64_t first_sequence, const Tensor& tokens, const Tensor& targets) {
  const std::int64_t seq = small_model().seq_length;
  const Rng rng(11, "tokens");
  for (std::int64_t s = 0; s < tokens.numel() / seq; ++s) {
    const auto counter = static_cast<std::uint64_t>(step * kSequences + first_sequence + s);
    auto value = static_cast<std::int64_t>(rng.below(counter, 64));
    for (std::int64_t i = 0; i < seq; ++i) {
      tokens.data<std::int32_t>()[s * seq + i] = static_cast<std::int32_t>(value);
      value = (value * 5 + 3) % 64;
      targets.data<std::int32_t>()[s * seq + i] = static_cast<std::int32_t>(value);
    }
  }
}

struct Training {
  explicit Training(const Layout& layout, DType dtype = DType::f32, std::int64_t bucket_elements = 3000,
                    const OptimizerConfig& config = {}, DType expert_gradients = DType::f32)
      : mesh(world(), layout.parallel),
        model(small_model(expert_gradients), dtype, mesh, 5, true),
        optimizer(config, model.parameters(), mesh, layout.zero_stage, bucket_elements),
        step(model, optimizer, mesh, kSequences / mesh.dp().size()) {}

  // Losses, then norms of iterations [first, last).
  std::vector<double> run(int first, int last) {
    const std::int64_t micro = kSequences / mesh.dp().size();
    std::vector<double> results;
    for (int i = first; i < last; ++i) {
      const StepResult r = step.run(1, 3e-3, [&](std::int64_t, const Tensor& tokens, const Tensor& targets) {
        fill_batch(i, mesh.dp().rank() * micro, tokens, targets);
      });
      EXPECT_FALSE(r.skipped);
      results.push_back(r.lm_loss);
      results.push_back(r.gradient_norm);
    }
    return results;
  }

  Mesh mesh;
  Transformer model;
  Optimizer optimizer;
  TrainingStep step;
};

std::vector<Layout> without_zero() {
  auto layouts = test::all_layouts(world().size(), 4);
  std::erase_if(layouts, [](const Layout& layout) { return layout.zero_stage != 0; });
  return layouts;
}

TEST(Optimizer, ZeroTrainsWithTheSameBits) {
  // Moments in bf16, too: their rounding depends on the place of an element, not on who updates it. And
  // gradients.
  for (const DType dtype : dtypes_of_trainings()) {
    OptimizerConfig config;
    config.exp_avg_dtype = config.exp_avg_sq_dtype = dtype == DType::f32 ? DType::f32 : DType::bf16;
    for (const Layout& layout : without_zero()) {
      const auto train = [&](std::int64_t zero_stage) {
        const DType gradients = dtype == DType::bf16 ? dtype : DType::f32;
        return Training({layout.parallel, zero_stage}, dtype, 3000, config, gradients).run(0, 10);
      };
      const auto without = train(0);
      EXPECT_EQ(train(1), without) << to_string(layout) << ' ' << name_of(dtype);
      EXPECT_LT(without[18], 0.95 * without[0]) << "nothing was learnt: the comparison would prove little";
    }
  }
}

// The mean loss of 300 steps is that of moments in f32 within 0.5 %. (The last loss alone, near 0, depends on
// the order of sums.)
TEST(Optimizer, MomentsAndGradientsInBf16TrainAsWell) {
  constexpr int kSteps = 300;
  const auto mean_loss = [](DType m, DType v, DType gradients) {
    OptimizerConfig config;
    config.exp_avg_dtype = m;
    config.exp_avg_sq_dtype = v;
    const auto results = Training({}, DType::bf16, 3000, config, gradients).run(0, kSteps);
    double sum = 0.0;
    for (std::size_t i = 0; i < results.size(); i += 2) sum += results[i];
    return sum / kSteps;
  };
  constexpr DType f32 = DType::f32;
  constexpr DType bf16 = DType::bf16;
  const double full = mean_loss(f32, f32, f32);
  for (const auto& [m, v, gradients] :
       {std::tuple{bf16, f32, f32}, std::tuple{f32, bf16, f32}, std::tuple{bf16, bf16, f32},
        std::tuple{f32, f32, bf16}, std::tuple{bf16, bf16, bf16}})
    EXPECT_NEAR(mean_loss(m, v, gradients), full, 0.005 * full)
        << name_of(m) << ' ' << name_of(v) << ' ' << name_of(gradients);
}

// Buckets that are summed as soon as their stages are complete hold what one sum at the end would.
TEST(Optimizer, SumsDuringBackwardAreThoseOfItsEnd) {
  const ParallelLayout parallel = {.expert = world().size() > 1 ? 2 : 1};
  const auto at_the_end = Training({parallel, 0}, DType::f32, kBucketElements).run(0, 10);
  for (const std::int64_t zero_stage : {0, 1}) {
    const auto found = Training({parallel, zero_stage}, DType::f32, 1).run(0, 10);
    // The same sums, but for those of the norm, which are in double.
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], at_the_end[i], 1e-7 * at_the_end[i]);
  }
}

// A checkpoint goes from layout to layout: each loads what the one before saved, saves it again, and trains
// on as the one that began does: the plainest, and one with all there is. (CheckpointLayouts holds that each
// saves and loads the whole state.)
TEST(Optimizer, ATrainingContinuesOnEveryOtherLayout) {
  constexpr double kTolerance = 1e-5;  // of sums in another order
  constexpr int kSaved = 5;
  constexpr int kLast = 8;
  const auto layouts = test::all_layouts(world().size(), 4);
  for (const Layout& first : {layouts.front(), layouts.back()}) {
    const SharedDirectory root;
    int saves = 0;
    const auto save = [&](const Training& training) {
      save_checkpoint(root.path(), ++saves, training_tensors(training.optimizer), "{}", training.mesh, {});
      world().barrier();
    };
    const auto continued = [&](const Layout& layout) {
      Training training(layout);
      load_training(read_manifest(root.path()), training.optimizer, /*moments=*/true, world());
      training.optimizer.set_steps(kSaved);
      save(training);
      return training.run(kSaved, kLast);
    };
    Training begun(first);
    begun.run(0, kSaved);
    save(begun);
    const auto expected = begun.run(kSaved, kLast);
    for (const Layout& layout : layouts) {
      SCOPED_TRACE(to_string(first) + " to " + to_string(layout));
      const auto found = continued(layout);
      for (std::size_t i = 0; i < found.size(); ++i)
        EXPECT_NEAR(found[i], expected[i], kTolerance * expected[i]) << i;
    }
    EXPECT_EQ(continued(first), expected);
  }
}

}  // namespace
}  // namespace xmoe
