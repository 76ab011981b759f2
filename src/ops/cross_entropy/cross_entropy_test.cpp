#include "ops/cross_entropy/cross_entropy.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "ops/cross_entropy/cross_entropy_case.h"

namespace xmoe {
namespace {

// One row, two words: logits (ln 3, 0), so probabilities 3/4 and 1/4.
TEST(CrossEntropy, AgreesWithAHandWorkedCase) {
  std::vector<float> x = {1.0F, std::log(3.0F)};
  std::vector<float> w = {0.0F, 1.0F, 0.0F, 0.0F};
  std::vector<std::int32_t> target = {1};
  std::vector<float> loss(1);
  std::vector<float> dx(2);
  std::vector<float> dw = {100.0F, 0.0F, 0.0F, 0.0F};
  Arena workspace({}, MemoryTag::workspace);
  const Context ctx{workspace};
  const Shape two_by_two{2, 2};
  linear_cross_entropy(ctx, {x.data(), DType::f32, {1, 2}}, {w.data(), DType::f32, two_by_two}, 2,
                       {target.data(), DType::i32, {1}}, {loss.data(), DType::f32, {1}}, 2.0F,
                       {dx.data(), DType::f32, {1, 2}}, {dw.data(), DType::f32, two_by_two});
  EXPECT_FLOAT_EQ(loss[0], std::log(4.0F));
  // dlogits = 2 (3/4, -3/4)
  EXPECT_FLOAT_EQ(dx[0], 0.0F);
  EXPECT_FLOAT_EQ(dx[1], 1.5F);
  EXPECT_FLOAT_EQ(dw[0], 101.5F);
  EXPECT_FLOAT_EQ(dw[1], 1.5F * std::log(3.0F));
  EXPECT_FLOAT_EQ(dw[2], -1.5F);
  EXPECT_FLOAT_EQ(dw[3], -1.5F * std::log(3.0F));
}

TEST(CrossEntropy, AgreesWithReferenceAndFiniteDifferences) {
  for (const CrossEntropyShape& s : {
           CrossEntropyShape{.tokens = 0, .hidden = 8, .vocabulary = 5, .rows = 5},
           CrossEntropyShape{.tokens = 1, .hidden = 1, .vocabulary = 1, .rows = 1},
           CrossEntropyShape{.tokens = 1, .hidden = 16, .vocabulary = 33, .rows = 40},
           CrossEntropyShape{.tokens = 17, .hidden = 30, .vocabulary = 101, .rows = 101},
           CrossEntropyShape{.tokens = 65, .hidden = 7, .vocabulary = 130, .rows = 131},
       }) {
    EXPECT_OK(check(cross_entropy_case(s)));
  }
}

// As over the ranks of a tensor-parallel group; in the third case a slice is all padding.
TEST(CrossEntropy, SlicesOfTheVocabularyAddUpToTheWhole) {
  EXPECT_OK(check(sliced_cross_entropy_case({.tokens = 13, .hidden = 9, .vocabulary = 24, .rows = 24}, 2)));
  EXPECT_OK(check(sliced_cross_entropy_case({.tokens = 21, .hidden = 16, .vocabulary = 37, .rows = 40}, 4)));
  EXPECT_OK(check(sliced_cross_entropy_case({.tokens = 5, .hidden = 7, .vocabulary = 8, .rows = 12}, 3)));
  EXPECT_OK(check(sliced_cross_entropy_case({.tokens = 0, .hidden = 4, .vocabulary = 6, .rows = 6}, 3)));
  // Several chunks, each of which is merged.
  EXPECT_OK(check_forward(
      sliced_cross_entropy_case({.tokens = 300, .hidden = 2, .vocabulary = 33000, .rows = 33000}, 2),
      DType::f32));
}

TEST(CrossEntropy, StatisticsOfSlicesMerge) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  // Two rows of three slices: maximum, sum, target's logit. The last slice has no words.
  std::vector<float> parts = {1.0F,  2.0F, 0.5F, 3.0F,  1.0F, 0.0F,   //
                              0.0F,  1.0F, 0.0F, 4.0F,  2.0F, -2.0F,  //
                              kNone, 0.0F, 0.0F, kNone, 0.0F, 0.0F};
  std::vector<float> merged(6);
  Arena workspace({}, MemoryTag::workspace);
  const Context ctx{workspace};
  merge_statistics(ctx, {parts.data(), DType::f32, {3, 2, 3}}, {merged.data(), DType::f32, {2, 3}});
  EXPECT_EQ(merged[0], 1.0F);
  EXPECT_FLOAT_EQ(merged[1], 2.0F + std::exp(-1.0F));
  EXPECT_EQ(merged[2], 0.5F);
  EXPECT_EQ(merged[3], 4.0F);
  EXPECT_FLOAT_EQ(merged[4], 2.0F + std::exp(-1.0F));
  EXPECT_EQ(merged[5], -2.0F);
  parts[1] = std::numeric_limits<float>::quiet_NaN();
  merge_statistics(ctx, {parts.data(), DType::f32, {3, 2, 3}}, {merged.data(), DType::f32, {2, 3}});
  EXPECT_TRUE(std::isnan(merged[1])) << "a logit that is not a number would go unseen";
}

// A vocabulary so large that a chunk is shorter than the rows.
TEST(CrossEntropy, ChunksAddUp) {
  const CrossEntropyShape s{.tokens = 530, .hidden = 4, .vocabulary = 16500, .rows = 16512};
  OpCase op = cross_entropy_case(s);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_OK(check_forward(op, dtype));
    EXPECT_OK(check_threads(op, dtype));
    // The gradient of all rows at once is the sum of the gradients of single rows.
    OpRun run(op, dtype);
    run.forward();
    run.backward();
    std::vector<double> summed = to_doubles(run.initial_gradient[1]);
    Arena arena({}, MemoryTag::gradients);
    for (std::int64_t t = 0; t < s.tokens; t += 53) {
      const ArenaScope scope(arena);
      const std::int64_t end = std::min<std::int64_t>(t + 53, s.tokens);
      const Tensor dx = arena.tensor(dtype, {end - t, s.hidden});
      const Tensor dw = arena.zeros(DType::f32, {s.rows, s.hidden});
      const Tensor losses = arena.tensor(DType::f32, {end - t});
      linear_cross_entropy(run.context(), run.in[0].slice(t, end), run.in[1], s.vocabulary,
                           run.in[2].slice(t, end), losses, run.d_out[1].data<float>()[0], dx, dw);
      const std::vector<double> part = to_doubles(dw);
      for (std::size_t i = 0; i < summed.size(); ++i) summed[i] += part[i];
      EXPECT_OK(compare(run.d_in[0].slice(t, end), to_doubles(dx), tolerance_for(dtype, s.vocabulary), "dx"));
    }
    EXPECT_OK(compare(run.d_in[1], summed, tolerance_for(DType::f32, s.tokens), "dw"));
  }
}

TEST(CrossEntropy, NeverHoldsAllLogits) {
  const CrossEntropyShape s{.tokens = 2048, .hidden = 2, .vocabulary = 16384, .rows = 16384};
  const OpCase op = cross_entropy_case(s);
  OpRun run(op, DType::bf16);
  run.forward();
  run.backward();
  const std::size_t all = static_cast<std::size_t>(s.tokens * s.vocabulary) * sizeof(float);
  // 256 rows in f32, and their gradients in bf16.
  EXPECT_EQ(run.context().workspace.high_water(), all / 8 + all / 16);
  const std::int64_t allocations = run.context().workspace.device_allocations();
  run.backward();
  EXPECT_EQ(run.context().workspace.device_allocations(), allocations);
}

TEST(CrossEntropy, IgnoredRowsHaveNoLossAndNoGradient) {
  OpCase op = cross_entropy_case({.tokens = 9, .hidden = 5, .vocabulary = 7, .rows = 7});
  op.inputs[2].fill = values({kIgnoredTarget});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    OpRun run(op, dtype);
    run.forward();
    run.backward();
    EXPECT_EQ(to_doubles(run.out[0]), std::vector<double>(9, 0.0));
    EXPECT_EQ(to_doubles(run.d_in[0]), std::vector<double>(45, 0.0));
    EXPECT_OK(compare_bits(run.d_in[1], run.initial_gradient[1], "dw"));
  }
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  OpCase op = cross_entropy_case({.tokens = 11, .hidden = 6, .vocabulary = 19, .rows = 19});
  op.inputs[0].fill = normal(200.0);
  EXPECT_OK(check_forward(op, DType::f32));
}

TEST(CrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  for (const std::int32_t target : {-2, 7, 8}) {
    OpCase op = cross_entropy_case({.tokens = 3, .hidden = 4, .vocabulary = 7, .rows = 9});
    op.inputs[2].fill = values({0.0, static_cast<double>(target), 6.0});
    OpRun run(op, DType::f32);
    EXPECT_THROW(run.forward(), InvariantError) << target;
  }
}

}  // namespace
}  // namespace xmoe
