// Ten training steps on every layout of data and expert parallelism against one rank: losses, auxiliary
// losses and gradient norms.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "comm/mesh.h"
#include "distributed/support.h"
#include "model/transformer.h"
#include "train/optimizer.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

using distributed::world;

constexpr std::int64_t kSequences = 8;  // of the global batch: one micro-batch over all ranks
constexpr int kSteps = 10;

ModelConfig small_model() {
  ModelConfig c;
  c.layers = 3;
  c.hidden = 32;
  c.ffn_hidden = 48;
  c.heads = 4;
  c.kv_heads = 2;
  c.vocabulary = 64;
  c.seq_length = 12;
  c.norm = NormKind::rms_norm;
  c.first_k_dense = 1;
  c.moe.router.experts = 8;
  c.moe.router.top_k = 3;
  c.moe.router.pre_softmax = true;
  c.moe.router.aux_loss_coeff = 1e-2;
  c.moe.router.z_loss_coeff = 1e-3;
  c.moe.ffn_hidden = 16;
  c.moe.shared_ffn_hidden = 16;
  c.moe.activation = Activation::swiglu;
  c.resolve();
  return c;
}

struct Course {
  std::vector<double> losses, aux, norms;
};

// A sequence in which the next token depends on the last, so that there is something to learn.
void fill_batch(std::int64_t step, std::int64_t first_sequence, std::int64_t sequences, std::int64_t seq,
                const Tensor& tokens, const Tensor& targets) {
  const Rng rng(11, "tokens");
  for (std::int64_t s = 0; s < sequences; ++s) {
    const auto start = static_cast<std::uint64_t>(step * kSequences + first_sequence + s);
    std::int64_t value = static_cast<std::int64_t>(rng.below(start, 64));
    for (std::int64_t i = 0; i < seq; ++i) {
      tokens.data<std::int32_t>()[s * seq + i] = static_cast<std::int32_t>(value);
      value = (value * 5 + 3) % 64;
      targets.data<std::int32_t>()[s * seq + i] = static_cast<std::int32_t>(value);
    }
  }
}

Course train(const ModelConfig& config, Communicator& ranks, int expert_parallel, std::int64_t micro_batches,
             DType dtype = DType::f32) {
  Mesh mesh(ranks, expert_parallel);
  Transformer model(config, dtype, mesh, 5, true);
  OptimizerConfig options;
  options.clip_grad = 1.0;
  Optimizer optimizer(options, model.parameters(), mesh);
  const std::int64_t micro = kSequences / ranks.size() / micro_batches;
  TrainingStep step(model, optimizer, mesh, micro);
  Course course;
  for (int i = 0; i < kSteps; ++i) {
    const StepResult r =
        step.run(micro_batches, 3e-3, [&](std::int64_t m, const Tensor& tokens, const Tensor& targets) {
          fill_batch(i, (m * ranks.size() + ranks.rank()) * micro, micro, config.seq_length, tokens, targets);
        });
    EXPECT_FALSE(r.skipped);
    course.losses.push_back(r.lm_loss);
    course.aux.push_back(r.aux_loss + r.z_loss);
    course.norms.push_back(r.gradient_norm);
  }
  return course;
}

constexpr double kTolerance = 1e-5;
// bf16: a sum taken in another order may round to the next of its numbers, 2^-8 apart. Such steps are few and
// of either sign, so that means over a batch move by a fraction of one; a router that meets a near tie may
// choose another expert.
constexpr double kBf16Tolerance = 1.0 / 256.0;

void expect_same(const Course& a, const Course& b, double tolerance = kTolerance) {
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    EXPECT_NEAR(a.losses[i], b.losses[i], tolerance * b.losses[i]) << "loss of step " << i;
    EXPECT_NEAR(a.aux[i], b.aux[i], tolerance * b.aux[i]) << "auxiliary losses of step " << i;
    EXPECT_NEAR(a.norms[i], b.norms[i], tolerance * b.norms[i]) << "gradient norm of step " << i;
  }
}

void expect_every_layout(const ModelConfig& config, std::int64_t micro_batches, DType dtype = DType::f32) {
  const auto self = make_self_communicator();
  const Course one = train(config, *self, 1, micro_batches, dtype);
  EXPECT_LT(one.losses.back(), 0.9 * one.losses.front())
      << "nothing was learnt: the comparison would prove little";
  for (const int ep : {1, 2, 4, 8}) {
    if (world().size() % ep != 0) continue;
    SCOPED_TRACE("ep " + std::to_string(ep));
    expect_same(train(config, world(), ep, micro_batches, dtype), one,
                dtype == DType::f32 ? kTolerance : kBf16Tolerance);
  }
}

TEST(TrainingLayouts, EqualOneRank) { expect_every_layout(small_model(), 1); }

TEST(TrainingLayouts, EqualOneRankInBf16) { expect_every_layout(small_model(), 1, DType::bf16); }

TEST(TrainingLayouts, EqualOneRankWithSigmoidGroupsAndBias) {
  ModelConfig c = small_model();
  c.norm = NormKind::layer_norm;
  c.tied_embeddings = false;
  c.moe.router.score_function = ScoreFunction::sigmoid;
  c.moe.router.normalize_topk = true;
  c.moe.router.groups = 4;
  c.moe.router.topk_groups = 2;
  c.moe.router.expert_bias = true;
  c.moe.router.bias_update_rate = 1e-2;
  c.moe.activation = Activation::gelu;
  expect_every_layout(c, 1);
}

TEST(TrainingLayouts, PaddedWithRoomForAllEqualsFlat) {
  ModelConfig c = small_model();
  const auto self = make_self_communicator();
  const Course flat = train(c, *self, 1, 1);
  c.moe.capacity_factor = static_cast<double>(c.moe.router.experts);
  c.moe.dispatcher = DispatcherKind::padded;
  expect_same(train(c, world(), world().size(), 1), flat);
}

TEST(TrainingLayouts, GradientAccumulationEqualsOneBatch) {
  // Without auxiliary losses, which are those of a micro-batch by definition.
  if (world().size() > 4) GTEST_SKIP() << "two micro-batches of one sequence need at most four ranks";
  ModelConfig c = small_model();
  c.moe.router.aux_loss_coeff = 0.0;
  c.moe.router.z_loss_coeff = 0.0;
  Course whole = train(c, world(), 1, 1);
  Course parts = train(c, world(), 1, 2);
  for (auto* course : {&whole, &parts}) course->aux.assign(course->aux.size(), 0.0);
  expect_same(parts, whole);
}

// After warm-up nothing is asked of the device, although the rows that a rank receives change with every
// micro-batch.
TEST(TrainingLayouts, SteadyStateAllocatesNothing) {
  constexpr std::int64_t kMicro = 4;  // per rank: rows enough that every arena outgrows its first chunk
  constexpr int kWarmUp = 2;  // the first step finds out how much is needed, the second begins with it
  ModelConfig config = small_model();
  config.moe.router.aux_loss_coeff = 0.0;  // nothing evens the load
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Mesh mesh(world(), world().size());
    Transformer model(config, dtype, mesh, 5, true);
    Optimizer optimizer({}, model.parameters(), mesh);
    TrainingStep step(model, optimizer, mesh, kMicro);
    std::vector<const Arena*> arenas = model.arenas();
    arenas.push_back(&optimizer.arena());
    for (const auto* group : {&mesh.world(), &mesh.ep(), &mesh.edp()}) arenas.push_back(&group->scratch());
    std::vector<std::int64_t> before;
    for (int i = 0; i < kWarmUp + kSteps; ++i) {
      if (i == kWarmUp)
        for (const auto* arena : arenas) before.push_back(arena->device_allocations());
      step.run(2, 3e-2, [&](std::int64_t m, const Tensor& tokens, const Tensor& targets) {
        fill_batch(100 * i, (m * world().size() + world().rank()) * kMicro, kMicro, config.seq_length, tokens,
                   targets);
      });
    }
    for (std::size_t a = 0; a < arenas.size(); ++a)
      EXPECT_EQ(arenas[a]->device_allocations(), before[a])
          << name_of(dtype) << ", arena " << a << ": " << name_of(arenas[a]->tag());
  }
}

TEST(TrainingLayouts, EvaluationDropsNothingOnAnyLayout) {
  const auto loss_of = [](Communicator& ranks, int expert_parallel, DispatcherKind dispatcher) {
    ModelConfig c = small_model();
    c.moe.capacity_factor = 0.5;
    c.moe.min_capacity = 1;
    c.moe.dispatcher = dispatcher;
    Mesh mesh(ranks, expert_parallel);
    Transformer model(c, DType::f32, mesh, 5, false);
    const std::int64_t sequences = kSequences / ranks.size();
    Arena memory({}, MemoryTag::workspace);
    const Tensor tokens = memory.tensor(DType::i32, {sequences * c.seq_length});
    const Tensor targets = memory.tensor(DType::i32, {sequences * c.seq_length});
    const Tensor losses = memory.tensor(DType::f32, {sequences * c.seq_length});
    fill_batch(0, ranks.rank() * sequences, sequences, c.seq_length, tokens, targets);
    model.evaluate(tokens, targets, sequences, losses);
    double sum = 0.0;
    for (std::int64_t i = 0; i < losses.dim(0); ++i) sum += static_cast<double>(losses.data<float>()[i]);
    return ranks.all_reduce(sum, ReduceOp::sum);
  };
  const auto self = make_self_communicator();
  const double one = loss_of(*self, 1, DispatcherKind::flat);
  for (const int ep : {1, 2, 4, 8}) {
    if (world().size() % ep != 0) continue;
    for (const auto dispatcher : {DispatcherKind::flat, DispatcherKind::padded})
      EXPECT_NEAR(loss_of(world(), ep, dispatcher), one, 1e-6 * one) << "ep " << ep;
  }
}

TEST(TrainingLayouts, SameRunSameBits) {
  const Course a = train(small_model(), world(), world().size(), 1);
  const Course b = train(small_model(), world(), world().size(), 1);
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
}

}  // namespace
}  // namespace xmoe
