// Ten training steps on every layout of tensor, data and expert parallelism, by every dispatcher, against one
// rank: losses, auxiliary losses and gradient norms.
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

using distributed::SimulatedNodes;
using distributed::tested;
using distributed::tested_device;

constexpr std::int64_t kSequences = 8;  // of the global batch: one micro-batch over all ranks
constexpr int kSteps = 10;

ModelConfig small_model() {
  ModelConfig c;
  c.layers = 3;
  c.hidden = 32;
  c.ffn_hidden = 48;
  c.heads = 4;
  c.kv_heads = 4;  // for four tensor-parallel ranks
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

// How a training is laid out over ranks, and what it does differently without changing the result.
struct LayoutCase {
  ParallelLayout parallel = {};
  std::int64_t zero_stage = 0;
  DispatcherKind dispatcher = DispatcherKind::flat;
  std::int64_t chunks = 1;
  RecomputeConfig recompute = {};
};

std::string describe(const LayoutCase& c) {
  const auto& p = c.parallel;
  return fmt::format(
      "tp {} ep {} {} {} ZeRO {} {} {} chunks{}", p.tensor, p.expert, p.expert_tensor ? "TED" : "SSMB",
      p.placement == ExpertPlacement::ep_first ? "ep_first" : "dp_first", c.zero_stage,
      c.dispatcher == DispatcherKind::rbd ? "rbd" : "flat", c.chunks, c.recompute.any() ? " recompute" : "");
}

Course train(ModelConfig config, Communicator& ranks, const LayoutCase& layout = {},
             std::int64_t micro_batches = 1, DType dtype = DType::f32) {
  config.moe.overlap_chunks = layout.chunks;
  config.recompute = layout.recompute;
  if (layout.dispatcher != DispatcherKind::flat) config.moe.dispatcher = layout.dispatcher;
  Mesh mesh(ranks, layout.parallel);
  Transformer model(config, dtype, mesh, 5, true, tested_device());
  OptimizerConfig options;
  options.clip_grad = 1.0;
  Optimizer optimizer(options, model.parameters(), mesh, layout.zero_stage);
  const std::int64_t micro = kSequences / mesh.dp().size() / micro_batches;
  // In f16 most gradients of so small a loss would be subnormal without.
  const LossScaler scaler = dtype == DType::f16 ? LossScaler({.constant = 1024.0}) : LossScaler();
  TrainingStep step(model, optimizer, mesh, micro, scaler);
  Course course;
  for (int i = 0; i < kSteps; ++i) {
    const StepResult r =
        step.run(micro_batches, 3e-3, [&](std::int64_t m, const Tensor& tokens, const Tensor& targets) {
          fill_batch(i, (m * mesh.dp().size() + mesh.dp().rank()) * micro, micro, config.seq_length, tokens,
                     targets);
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
constexpr double kBf16Tolerance = 1.0 / 256.0;  // f16 stays well within it

void expect_same(const Course& a, const Course& b, double tolerance = kTolerance) {
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    EXPECT_NEAR(a.losses[i], b.losses[i], tolerance * b.losses[i]) << "loss of step " << i;
    EXPECT_NEAR(a.aux[i], b.aux[i], tolerance * b.aux[i]) << "auxiliary losses of step " << i;
    EXPECT_NEAR(a.norms[i], b.norms[i], tolerance * b.norms[i]) << "gradient norm of step " << i;
  }
}

// Every layout that fits the ranks and the heads. Placements differ where an expert has several replicas and
// the experts several ranks.
std::vector<ParallelLayout> all_layouts(const ModelConfig& config) {
  const int ranks = tested().size();
  std::vector<ParallelLayout> layouts;
  for (const int tp : {1, 2, 4}) {
    for (const int ep : {1, 2, 4, 8}) {
      for (const bool ted : {false, true}) {
        for (const auto placement : {ExpertPlacement::ep_first, ExpertPlacement::dp_first}) {
          const ParallelLayout layout{
              .tensor = tp, .expert = ep, .expert_tensor = ted, .placement = placement};
          const int holders = ted ? ranks / tp : ranks;
          const bool placements_differ = ep > 1 && ep < holders;
          if (!layout_problem(layout, ranks).empty() || config.kv_heads % tp != 0 || (ted && tp == 1) ||
              (placement == ExpertPlacement::dp_first && !placements_differ))
            continue;
          layouts.push_back(layout);
        }
      }
    }
  }
  return layouts;
}

void expect_one_ranks_course(const ModelConfig& config, const std::vector<LayoutCase>& cases,
                             DType dtype = DType::f32) {
  const auto self = make_self_communicator("one", tested_device());
  const Course one = train(config, *self, {}, 1, dtype);
  EXPECT_LT(one.losses.back(), 0.9 * one.losses.front())
      << "nothing was learnt: the comparison would prove little";
  for (const LayoutCase& c : cases) {
    SCOPED_TRACE(describe(c));
    expect_same(train(config, tested(), c, 1, dtype), one, dtype == DType::f32 ? kTolerance : kBf16Tolerance);
  }
}

ModelConfig model_with_everything() {
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
  return c;
}

std::vector<LayoutCase> every_layout_by(const ModelConfig& config, DispatcherKind dispatcher) {
  std::vector<LayoutCase> cases;
  for (const ParallelLayout& layout : all_layouts(config))
    for (const std::int64_t zero_stage : {0, 1})
      cases.push_back({.parallel = layout, .zero_stage = zero_stage, .dispatcher = dispatcher});
  return cases;
}

TEST(TrainingLayouts, EqualOneRank) {
  ModelConfig config = small_model();
  config.moe.router.expert_bias = true;
  config.moe.router.bias_update_rate = 1e-2;
  expect_one_ranks_course(config, every_layout_by(config, DispatcherKind::flat));
}

TEST(TrainingLayouts, EqualOneRankByRbd) {
  const SimulatedNodes nodes;
  ModelConfig config = small_model();
  config.moe.router.expert_bias = true;
  config.moe.router.bias_update_rate = 1e-2;
  expect_one_ranks_course(config, every_layout_by(config, DispatcherKind::rbd));
}

TEST(TrainingLayouts, EqualOneRankWithGroupedQueries) {
  ModelConfig config = small_model();
  config.kv_heads = 2;
  std::vector<LayoutCase> cases;
  for (const int tp : {1, 2})
    if (tested().size() % tp == 0) cases.push_back({.parallel = {.tensor = tp, .expert = tested().size()}});
  expect_one_ranks_course(config, cases);
}

TEST(TrainingLayouts, EqualOneRankWithSigmoidGroupsAndBias) {
  expect_one_ranks_course(model_with_everything(), every_layout_by(small_model(), DispatcherKind::flat));
}

std::vector<LayoutCase> largest_layouts() {
  std::vector<LayoutCase> cases;
  for (const ParallelLayout& layout : all_layouts(small_model()))
    if (layout.expert * (layout.expert_tensor ? layout.tensor : 1) == tested().size())
      cases.push_back({.parallel = layout});
  return cases;
}

TEST(TrainingLayouts, EqualOneRankIn16Bits) {
  for (const DType dtype : {DType::bf16, DType::f16})
    expect_one_ranks_course(small_model(), largest_layouts(), dtype);
}

TEST(TrainingLayouts, EqualOneRankWithGradientsInBf16) {
  ModelConfig config = small_model();
  config.expert_gradients = DType::bf16;
  std::vector<LayoutCase> cases = largest_layouts();
  cases.push_back({.chunks = 2});  // replicas, and sums of two calls
  for (const LayoutCase& c : std::vector(cases)) {
    cases.push_back(c);
    cases.back().zero_stage = 1;
  }
  expect_one_ranks_course(config, cases, DType::bf16);
}

TEST(TrainingLayouts, ChunksAndRecomputationChangeNothing) {
  const SimulatedNodes nodes;
  std::vector<LayoutCase> cases;
  for (LayoutCase c : largest_layouts()) {
    c.chunks = 3;
    cases.push_back(c);
    c.recompute.layer = true;
    cases.push_back(c);
    c.dispatcher = DispatcherKind::rbd;
    cases.push_back(c);
  }
  expect_one_ranks_course(small_model(), cases);
}

TEST(TrainingLayouts, PaddedWithRoomForAllEqualsFlat) {
  ModelConfig c = small_model();
  const auto self = make_self_communicator("one", tested_device());
  const Course flat = train(c, *self);
  c.moe.capacity_factor = static_cast<double>(c.moe.router.experts);
  c.moe.dispatcher = DispatcherKind::padded;
  expect_same(train(c, tested(), {.parallel = {.expert = tested().size()}}), flat);
}

TEST(TrainingLayouts, GradientAccumulationEqualsOneBatch) {
  // Without auxiliary losses, which are those of a micro-batch by definition.
  if (tested().size() > 4) GTEST_SKIP() << "two micro-batches of one sequence need at most four ranks";
  ModelConfig c = small_model();
  c.moe.router.aux_loss_coeff = 0.0;
  c.moe.router.z_loss_coeff = 0.0;
  const auto without_aux = [](Course course) {
    course.aux.assign(course.aux.size(), 0.0);
    return course;
  };
  expect_same(without_aux(train(c, tested(), {}, 2)), without_aux(train(c, tested())));
  const Course whole = without_aux(train(c, tested(), {}, 1, DType::bf16));
  c.expert_gradients = DType::bf16;
  expect_same(without_aux(train(c, tested(), {}, 2, DType::bf16)), whole, kBf16Tolerance);
}

// After warm-up nothing is asked of the device, although the rows that a rank receives change with every
// micro-batch.
TEST(TrainingLayouts, SteadyStateAllocatesNothing) {
  constexpr std::int64_t kSequencesOfRank = 4;  // rows enough that every arena outgrows its first chunk
  constexpr int kWarmUp = 2;  // the first step finds out how much is needed, the second begins with it
  ModelConfig config = small_model();
  config.moe.router.aux_loss_coeff = 0.0;  // nothing evens the load
  struct Way {
    DType dtype;
    int tensor;
    std::int64_t chunks;
  };
  for (const auto& [dtype, tensor, chunks] :
       {Way{DType::f32, 1, 1}, Way{DType::bf16, 1, 1}, Way{DType::bf16, 2, 2}}) {
    if (tested().size() % tensor != 0) continue;
    config.moe.overlap_chunks = chunks;
    const std::int64_t micro = kSequencesOfRank * tensor;
    Mesh mesh(tested(), ParallelLayout{.tensor = tensor, .expert = tested().size()});
    Transformer model(config, dtype, mesh, 5, true, tested_device());
    Optimizer optimizer({}, model.parameters(), mesh);
    TrainingStep step(model, optimizer, mesh, micro);
    // Groups make arenas as their transfers need them: a new one must be seen as well.
    const auto arenas_now = [&] {
      std::vector<const Arena*> arenas = model.arenas();
      arenas.push_back(&optimizer.arena());
      for (const auto* group :
           {&mesh.world(), &mesh.tp(), &mesh.dp(), &mesh.ep(), &mesh.edp(), &mesh.ep_node()})
        for (const Arena* arena : group->arenas()) arenas.push_back(arena);
      return arenas;
    };
    std::vector<const Arena*> arenas;
    std::vector<std::int64_t> before;
    for (int i = 0; i < kWarmUp + kSteps; ++i) {
      if (i == kWarmUp) {
        arenas = arenas_now();
        for (const auto* arena : arenas) before.push_back(arena->device_allocations());
      }
      step.run(2, 3e-2, [&](std::int64_t m, const Tensor& tokens, const Tensor& targets) {
        fill_batch(100 * i, (m * mesh.dp().size() + mesh.dp().rank()) * micro, micro, config.seq_length,
                   tokens, targets);
      });
    }
    EXPECT_EQ(arenas_now(), arenas) << name_of(dtype);
    for (std::size_t a = 0; a < arenas.size(); ++a)
      EXPECT_EQ(arenas[a]->device_allocations(), before[a])
          << name_of(dtype) << ", arena " << a << ": " << name_of(arenas[a]->tag());
  }
}

TEST(TrainingLayouts, EvaluationDropsNothingOnAnyLayout) {
  const auto loss_of = [](Communicator& ranks, const ParallelLayout& layout, DispatcherKind dispatcher) {
    ModelConfig c = small_model();
    c.moe.capacity_factor = 0.5;
    c.moe.min_capacity = 1;
    c.moe.dispatcher = dispatcher;
    Mesh mesh(ranks, layout);
    Transformer model(c, DType::f32, mesh, 5, false, tested_device());
    const std::int64_t sequences = kSequences / mesh.dp().size();
    Arena memory({}, MemoryTag::workspace);
    const Tensor tokens = memory.tensor(DType::i32, {sequences * c.seq_length});
    const Tensor targets = memory.tensor(DType::i32, {sequences * c.seq_length});
    const Tensor losses = memory.tensor(DType::f32, {sequences * c.seq_length});
    fill_batch(0, mesh.dp().rank() * sequences, sequences, c.seq_length, tokens, targets);
    model.evaluate(tokens, targets, sequences, losses);
    double sum = 0.0;
    for (std::int64_t i = 0; i < losses.dim(0); ++i) sum += static_cast<double>(losses.data<float>()[i]);
    return mesh.dp().all_reduce(sum, ReduceOp::sum);
  };
  const auto self = make_self_communicator("one", tested_device());
  const double one = loss_of(*self, {}, DispatcherKind::flat);
  for (const ParallelLayout& layout : all_layouts(small_model()))
    for (const auto dispatcher : {DispatcherKind::flat, DispatcherKind::padded})
      EXPECT_NEAR(loss_of(tested(), layout, dispatcher), one, 1e-6 * one)
          << describe({.parallel = layout, .dispatcher = dispatcher});
}

TEST(TrainingLayouts, SameRunSameBits) {
  const SimulatedNodes nodes;
  for (const auto dispatcher : {DispatcherKind::flat, DispatcherKind::rbd}) {
    const LayoutCase layout{.parallel = {.tensor = std::min(2, tested().size()), .expert = tested().size()},
                            .zero_stage = 1,
                            .dispatcher = dispatcher,
                            .chunks = 2};
    const Course a = train(small_model(), tested(), layout);
    const Course b = train(small_model(), tested(), layout);
    EXPECT_EQ(a.losses, b.losses) << describe(layout);
    EXPECT_EQ(a.aux, b.aux) << describe(layout);
    EXPECT_EQ(a.norms, b.norms) << describe(layout);
  }
}

}  // namespace
}  // namespace xmoe
