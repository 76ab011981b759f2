#include "ops/cross_entropy/cross_entropy.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "device/gpu_built.h"
#include "ops/cross_entropy/cross_entropy_case.h"
#include "ops/cross_entropy/cross_entropy_gpu.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(CrossEntropy);

// One row, two words: logits (ln 3, 0), so probabilities 3/4 and 1/4.
TEST_P(CrossEntropy, AgreesWithAHandWorkedCase) {
  Arena arena(device(), MemoryTag::workspace);
  const auto tensor = [&](DType dtype, const Shape& shape, const std::vector<double>& values) {
    const Tensor made = arena.tensor(dtype, shape);
    from_doubles(values, made);
    return made;
  };
  const double ln3 = std::log(3.0);
  const Tensor x = tensor(DType::f32, {1, 2}, {1.0, ln3});
  const Tensor w = tensor(DType::f32, {2, 2}, {0.0, 1.0, 0.0, 0.0});
  const Tensor target = tensor(DType::i32, {1}, {1.0});
  const Tensor loss = arena.tensor(DType::f32, {1});
  const Tensor dx = arena.tensor(DType::f32, {1, 2});
  const Tensor dw = tensor(DType::f32, {2, 2}, {100.0, 0.0, 0.0, 0.0});
  linear_cross_entropy({arena}, x, w, 2, target, loss, 2.0F, dx, dw);
  const Tolerance tolerance = tolerance_for(DType::f32);
  EXPECT_OK(compare(loss, std::vector<double>{std::log(4.0)}, tolerance, "loss"));
  // dlogits = 2 (3/4, -3/4)
  EXPECT_OK(compare(dx, std::vector<double>{0.0, 1.5}, tolerance, "dx"));
  EXPECT_OK(compare(dw, std::vector<double>{101.5, 1.5 * ln3, -1.5, -1.5 * ln3}, tolerance, "dw"));
}

TEST_P(CrossEntropy, AgreesWithReferenceAndFiniteDifferences) {
  for (const CrossEntropyShape& s : {
           CrossEntropyShape{.tokens = 0, .hidden = 8, .vocabulary = 5, .rows = 5},
           CrossEntropyShape{.tokens = 1, .hidden = 1, .vocabulary = 1, .rows = 1},
           CrossEntropyShape{.tokens = 1, .hidden = 16, .vocabulary = 33, .rows = 40},
           CrossEntropyShape{.tokens = 17, .hidden = 30, .vocabulary = 101, .rows = 101},
           CrossEntropyShape{.tokens = 65, .hidden = 7, .vocabulary = 130, .rows = 131},
           // Padding that a GPU takes part of, all of, and more than it takes.
           CrossEntropyShape{.tokens = 3, .hidden = 4, .vocabulary = 29, .rows = 32},
           CrossEntropyShape{.tokens = 3, .hidden = 4, .vocabulary = 29, .rows = 64},
           CrossEntropyShape{.tokens = 3, .hidden = 4, .vocabulary = 29, .rows = 30},
       }) {
    EXPECT_OK(check(cross_entropy_case(s), device()));
  }
}

// As over the ranks of a tensor-parallel group; in the third case a slice is all padding.
TEST_P(CrossEntropy, SlicesOfTheVocabularyAddUpToTheWhole) {
  EXPECT_OK(check(sliced_cross_entropy_case({.tokens = 13, .hidden = 9, .vocabulary = 24, .rows = 24}, 2),
                  device()));
  EXPECT_OK(check(sliced_cross_entropy_case({.tokens = 21, .hidden = 16, .vocabulary = 37, .rows = 40}, 4),
                  device()));
  EXPECT_OK(
      check(sliced_cross_entropy_case({.tokens = 5, .hidden = 7, .vocabulary = 8, .rows = 12}, 3), device()));
  EXPECT_OK(
      check(sliced_cross_entropy_case({.tokens = 0, .hidden = 4, .vocabulary = 6, .rows = 6}, 3), device()));
  // Several chunks, each of which is merged.
  EXPECT_OK(check_forward(
      sliced_cross_entropy_case({.tokens = 300, .hidden = 2, .vocabulary = 33000, .rows = 33000}, 2),
      DType::f32, device()));
}

TEST_P(CrossEntropy, StatisticsOfSlicesMerge) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  // Two rows of three slices: maximum, sum, target's logit. The last slice has no words.
  std::vector<double> parts = {1.0,   2.0, 0.5, 3.0,   1.0, 0.0,   //
                               0.0,   1.0, 0.0, 4.0,   2.0, -2.0,  //
                               kNone, 0.0, 0.0, kNone, 0.0, 0.0};
  Arena arena(device(), MemoryTag::workspace);
  const Tensor of_slices = arena.tensor(DType::f32, {3, 2, 3});
  const Tensor of_all = arena.tensor(DType::f32, {2, 3});
  const auto merge = [&] {
    from_doubles(parts, of_slices);
    merge_statistics({arena}, of_slices, of_all);
    return to_doubles(of_all);
  };
  const std::vector<double> merged = merge();
  EXPECT_EQ(merged[0], 1.0);
  EXPECT_FLOAT_EQ(static_cast<float>(merged[1]), 2.0F + std::exp(-1.0F));
  EXPECT_EQ(merged[2], 0.5);
  EXPECT_EQ(merged[3], 4.0);
  EXPECT_FLOAT_EQ(static_cast<float>(merged[4]), 2.0F + std::exp(-1.0F));
  EXPECT_EQ(merged[5], -2.0);
  parts[1] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(merge()[1])) << "a logit that is not a number would go unseen";
}

// A vocabulary so large that a chunk is shorter than the rows.
TEST_P(CrossEntropy, ChunksAddUp) {
  const std::int64_t tokens = is_emulated(device()) ? 106 : 530;
  const CrossEntropyShape s{.tokens = tokens, .hidden = 4, .vocabulary = 16500, .rows = 16512};
  OpCase op = cross_entropy_case(s);
  for (const DType dtype : kComputeDtypes) {
    EXPECT_OK(check_forward(op, dtype, device()));
    EXPECT_OK(device().is_cpu() ? check_threads(op, dtype) : check_repeated(op, dtype, device()));
    // The gradient of all rows at once is the sum of the gradients of single rows.
    OpRun run(op, dtype, device());
    run.forward();
    run.backward();
    std::vector<double> summed = to_doubles(run.initial_gradient[1]);
    Arena arena(device(), MemoryTag::gradients);
    for (std::int64_t t = 0; t < s.tokens; t += 53) {
      const ArenaScope scope(arena);
      const std::int64_t end = std::min<std::int64_t>(t + 53, s.tokens);
      const Tensor dx = arena.tensor(dtype, {end - t, s.hidden});
      const Tensor dw = arena.zeros(DType::f32, {s.rows, s.hidden});
      const Tensor losses = arena.tensor(DType::f32, {end - t});
      linear_cross_entropy(run.context(), run.in[0].slice(t, end), run.in[1], s.vocabulary,
                           run.in[2].slice(t, end), losses, value_of(run.d_out[1]), dx, dw);
      const std::vector<double> part = to_doubles(dw);
      for (std::size_t i = 0; i < summed.size(); ++i) summed[i] += part[i];
      EXPECT_OK(compare(run.d_in[0].slice(t, end), to_doubles(dx), tolerance_for(dtype, s.vocabulary), "dx"));
    }
    EXPECT_OK(compare(run.d_in[1], summed, tolerance_for(DType::f32, s.tokens), "dw"));
  }
}

TEST_P(CrossEntropy, NeverHoldsAllLogits) {
  if (is_emulated(device())) GTEST_SKIP() << "what a GPU holds at a time would take minutes to emulate";
  const CrossEntropyShape s =
      device().is_cpu()
          ? CrossEntropyShape{.tokens = 2048, .hidden = 2, .vocabulary = 16384, .rows = 16384}
          : CrossEntropyShape{.tokens = 4096, .hidden = 2, .vocabulary = 131072, .rows = 131072};
  const OpCase op = cross_entropy_case(s);
  OpRun run(op, DType::bf16, device());
  run.forward();
  run.backward();
  // In f32, and their gradients in bf16.
  const std::size_t row = static_cast<std::size_t>(s.vocabulary) * (sizeof(float) + sizeof(bf16));
  const std::size_t used = run.context().workspace.high_water();
  if (device().is_cpu()) {
    EXPECT_EQ(used, 256 * row);
  } else {  // besides what the library of the products wants
    EXPECT_GE(used, 1024 * row);
    EXPECT_LE(used, static_cast<std::size_t>(gpu::kChunkBytes) + (std::size_t{64} << 20));
  }
  run.backward();  // what the first calls needed is now one piece
  const std::int64_t allocations = run.context().workspace.device_allocations();
  run.backward();
  EXPECT_EQ(run.context().workspace.device_allocations(), allocations);
}

XMOE_GPU_SUITE(GpuCrossEntropy);

// Chunks of 128 rows, the last of them short, against all rows in one.
TEST_P(GpuCrossEntropy, ChunksAddUp) {
  const OpCase whole = cross_entropy_case({.tokens = 600, .hidden = 24, .vocabulary = 515, .rows = 520});
  OpCase chunked = whole;
  chunked.backward = [](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
    constexpr std::int64_t kLittle = 1;
    if constexpr (kGpuBuilt)
      gpu::linear_cross_entropy(ctx, in[0], in[1], 515, in[2], out[0], value_of(d_out[1]), d_in[0], d_in[1],
                                nullptr, kLittle);
  };
  for (const DType dtype : kComputeDtypes) {
    EXPECT_OK(check_repeated(chunked, dtype, device()));
    EXPECT_OK(check_against_cpu(whole, dtype, device()));
    OpRun expected(whole, dtype, device());
    OpRun run(chunked, dtype, device());
    for (OpRun* r : {&expected, &run}) {
      r->forward();
      r->backward();
    }
    EXPECT_OK(compare(run.out[0], to_doubles(expected.out[0]), tolerance_for(DType::f32, 24), "losses"));
    EXPECT_OK(compare(run.d_in[0], to_doubles(expected.d_in[0]), tolerance_for(dtype, 515), "dx"));
    EXPECT_OK(compare(run.d_in[1], to_doubles(expected.d_in[1]), tolerance_for(DType::f32, 600), "dw"));
    if (dtype == DType::bf16) {  // in f32 they lie where the logits do, which forward holds in whole
      EXPECT_LT(run.context().workspace.high_water(), expected.context().workspace.high_water());
    }
  }
}

// Vocabularies beyond a block's threads, and beyond the 24,576 logits that it keeps in shared memory, whose
// rows are read by wide accesses and by narrow ones.
TEST_P(GpuCrossEntropy, AgreesWithTheCpu) {
  const std::int64_t tokens = is_emulated(device()) ? 3 : 37;
  for (const std::int64_t rows : {9'000, 9'001, 30'000, 30'001})
    for (const DType dtype : kComputeDtypes)
      EXPECT_OK(check_against_cpu(
          cross_entropy_case({.tokens = tokens, .hidden = 16, .vocabulary = rows, .rows = rows}), dtype,
          device()));
}

TEST_P(CrossEntropy, IgnoredRowsHaveNoLossAndNoGradient) {
  OpCase op = cross_entropy_case({.tokens = 9, .hidden = 5, .vocabulary = 7, .rows = 7});
  op.inputs[2].fill = values({kIgnoredTarget});
  for (const DType dtype : kComputeDtypes) {
    OpRun run(op, dtype, device());
    run.forward();
    run.backward();
    EXPECT_EQ(to_doubles(run.out[0]), std::vector<double>(9, 0.0));
    EXPECT_EQ(to_doubles(run.d_in[0]), std::vector<double>(45, 0.0));
    EXPECT_OK(compare_bits(run.d_in[1], run.initial_gradient[1], "dw"));
  }
}

TEST_P(CrossEntropy, LargeLogitsDoNotOverflow) {
  OpCase op = cross_entropy_case({.tokens = 11, .hidden = 6, .vocabulary = 19, .rows = 19});
  op.inputs[0].fill = normal(200.0);
  EXPECT_OK(check_forward(op, DType::f32, device()));
}

TEST_P(CrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  for (const std::int32_t target : {-2, 7, 8}) {
    OpCase op = cross_entropy_case({.tokens = 3, .hidden = 4, .vocabulary = 7, .rows = 9});
    op.inputs[2].fill = values({0.0, static_cast<double>(target), 6.0});
    OpRun run(op, DType::f32, device());
    EXPECT_THROW(run.forward(), InvariantError) << target;  // which reads the losses
  }
}

}  // namespace
}  // namespace xmoe
