#include "ops/grouped_mlp/grouped_mlp.h"

#include <gtest/gtest.h>

#include "ops/grouped_mlp/activation_rows.h"
#include "ops/grouped_mlp/grouped_mlp_cases.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

// Gradients that are written hold NaN before.
Comparison check_both(const GroupedMlpSizes& sizes, const std::string& name, const Device& device) {
  Comparison c = check(grouped_mlp_case(sizes, Accumulation::add, name), device);
  if (c.ok) c = check(grouped_mlp_case(sizes, Accumulation::write, name), device);
  return c;
}

// The same for the dtypes that tensor cores have kernels for: either with one of the two, by the activation,
// since finite differences of so many rows take seconds.
Comparison check_halves(const GroupedMlpSizes& sizes, const std::string& name, const Device& device) {
  const OpCase added = grouped_mlp_case(sizes, Accumulation::add, name);
  const OpCase written = grouped_mlp_case(sizes, Accumulation::write, name);
  const bool gelu = sizes.activation == Activation::gelu;
  for (const auto& [op, dtype] : {std::pair{&added, gelu ? DType::bf16 : DType::f16},
                                  std::pair{&written, gelu ? DType::f16 : DType::bf16}}) {
    Comparison c = check_forward(*op, dtype, device);
    if (c.ok) c = check_backward(*op, dtype, device);
    if (c.ok) c = check_repeated(*op, dtype, device);
    if (!c.ok) return c;
  }
  return {};
}

XMOE_DEVICE_SUITE(GroupedMlp);
XMOE_GPU_SUITE(GroupedMlpOnGpu);  // sizes at which the reference takes too long under a sanitizer

TEST_P(GroupedMlp, EqualsTheReference) {
  for (const auto activation : {Activation::gelu, Activation::swiglu}) {
    SCOPED_TRACE(activation == Activation::gelu ? "gelu" : "swiglu");
    EXPECT_OK(check_both({.tokens = 13,
                          .remote = 5,
                          .hidden = 17,
                          .ffn = 11,
                          .activation = activation,
                          .per_expert = {3, 0, 20, 1}},
                         "uneven_experts", device()));
    EXPECT_OK(
        check_both({.tokens = 9, .hidden = 8, .ffn = 33, .activation = activation, .per_expert = {0, 70, 0}},
                   "one_expert_gets_everything", device()));
    EXPECT_OK(check_both({.tokens = 1, .hidden = 1, .ffn = 1, .activation = activation, .per_expert = {1}},
                         "one_row", device()));
    EXPECT_OK(check_both({.tokens = 21,
                          .hidden = 16,
                          .ffn = 24,
                          .activation = activation,
                          .per_expert = {21},
                          .in_order = true,
                          .weighted = false},
                         "dense", device()));
    EXPECT_OK(check_both(
        {.tokens = 4, .remote = 4, .hidden = 6, .ffn = 5, .activation = activation, .per_expert = {2, 3}},
        "all_rows_remote", device()));
  }
}

// Several row blocks of one expert, of which only the first may overwrite, and weight gradients in slices.
TEST_P(GroupedMlp, ManyBlocksOfRows) {
  const GroupedMlpSizes s{.tokens = 100,
                          .remote = 30,
                          .hidden = 10,
                          .ffn = 70,
                          .activation = Activation::swiglu,
                          .per_expert = {300, 5, 290}};
  EXPECT_OK(check(grouped_mlp_case(s, Accumulation::add, "many_blocks"), device()));
  // Finite differences of so many rows take long: one dtype.
  EXPECT_OK(check_backward(grouped_mlp_case(s, Accumulation::write, "many_blocks"), DType::f32, device()));
}

TEST_P(GroupedMlp, GradientsInTheDtypeOfTheWeights) {
  for (const auto accumulation : {Accumulation::add, Accumulation::write})
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const OpCase op = grouped_mlp_case({.tokens = 13,
                                          .remote = 5,
                                          .hidden = 17,
                                          .ffn = 66,
                                          .per_expert = {3, 0, 260, 1},
                                          .gradients = ElementKind::compute},
                                         accumulation, "uneven_experts");
      EXPECT_OK(check_backward(op, dtype, device()));
      if (device().is_cpu())
        EXPECT_OK(check_threads(op, dtype));
      else
        EXPECT_OK(check_repeated(op, dtype, device()));
    }
}

// Widths that tensor cores with their own kernels take: rows beyond a tile of 128, odd counts, experts
// without rows, a tile of fewer columns, rows of other ranks.
TEST_P(GroupedMlpOnGpu, TilesThatAreNotFull) {
  if (is_emulated(device())) GTEST_SKIP() << "tensor cores are not emulated";
  for (const auto activation : {Activation::gelu, Activation::swiglu}) {
    SCOPED_TRACE(activation == Activation::gelu ? "gelu" : "swiglu");
    EXPECT_OK(check_halves({.tokens = 50,
                            .remote = 20,
                            .hidden = 64,
                            .ffn = 192,
                            .activation = activation,
                            .per_expert = {0, 131, 1, 64, 0, 33}},
                           "partial_tiles", device()));
  }
  EXPECT_OK(check_halves({.tokens = 50,
                          .hidden = 320,
                          .ffn = 64,
                          .activation = Activation::gelu,  // with which they are added in bf16
                          .per_expert = {70, 1, 0, 31},
                          .gradients = ElementKind::compute},
                         "narrow_gradients", device()));
  EXPECT_OK(check_halves(
      {.tokens = 150, .hidden = 320, .ffn = 64, .per_expert = {150}, .in_order = true, .weighted = false},
      "dense_tiles", device()));
}

// Blocks that take one tile after another, of many experts with unlike numbers of rows and of few. A tile
// that was computed twice would show where gradients are added.
TEST_P(GroupedMlpOnGpu, MoreTilesThanMultiprocessors) {
  if (is_emulated(device())) GTEST_SKIP() << "tensor cores are not emulated";
  std::vector<std::int64_t> rows;
  for (std::int64_t e = 0; e < 200; ++e) rows.push_back(e * 37 % 140);
  GroupedMlpSizes many{.tokens = 300, .remote = 100, .hidden = 320, .ffn = 192, .per_expert = rows};
  for (const auto activation : {Activation::gelu, Activation::swiglu}) {
    many.activation = activation;
    const OpCase op = grouped_mlp_case(many, Accumulation::add, "many_tiles");
    for (const DType dtype : {DType::bf16, DType::f16}) {
      EXPECT_OK(check_against_cpu(op, dtype, device()));
      EXPECT_OK(check_repeated(op, dtype, device()));
    }
  }
  const OpCase few = grouped_mlp_case({.tokens = 500,
                                       .hidden = 2048,
                                       .ffn = 2048,
                                       .activation = Activation::gelu,
                                       .per_expert = {700, 0, 129, 1000, 64, 0, 1}},
                                      Accumulation::write, "few_experts");
  EXPECT_OK(check_against_cpu(few, DType::bf16, device()));
}

// Recomputation wants nothing else.
TEST_P(GroupedMlp, PreactivationsAloneAreTheSameBits) {
  const GroupedMlpSizes s{
      .tokens = 40, .hidden = 10, .ffn = 21, .per_expert = {40}, .in_order = true, .weighted = false};
  for (const DType dtype : kComputeDtypes) {
    const OpCase op = grouped_mlp_case(s, Accumulation::add, "preactivations");
    OpRun run(op, dtype, device());
    run.forward();
    Arena arena(device(), MemoryTag::workspace);
    const Tensor h = arena.zeros(dtype, run.out[1].shape());
    grouped_mlp_forward(run.context(), s.activation, {s.per_expert, {}, {}, {}}, {run.in[0], {}}, run.in[1],
                        run.in[2], h, {});
    EXPECT_OK(compare_bits(h, run.out[1], "h"));
  }
}

TEST_P(GroupedMlp, NoRows) {
  EXPECT_OK(check_both({.tokens = 3, .hidden = 8, .ffn = 8, .per_expert = {0, 0}}, "no_rows", device()));
  EXPECT_OK(
      check_both({.tokens = 0, .hidden = 8, .ffn = 8, .per_expert = {0}, .in_order = true, .weighted = false},
                 "no_tokens", device()));
}

TEST_P(GroupedMlp, SteadyStateAllocatesNothing) {
  const OpCase op = grouped_mlp_case({.tokens = 64, .hidden = 32, .ffn = 16, .per_expert = {50, 10, 68}},
                                     Accumulation::add, "steady");
  OpRun run(op, DType::f32, device());
  run.forward();
  run.backward();
  run.forward();
  const auto before = run.context().workspace.device_allocations();
  run.forward();
  run.backward();
  EXPECT_EQ(run.context().workspace.device_allocations(), before);
}

TEST_P(GroupedMlp, RefusesShapesThatDoNotFit) {
  Arena memory(device(), MemoryTag::workspace);
  const Context ctx{memory};
  const auto t = [&](const Shape& shape) { return memory.zeros(DType::f32, shape); };
  const std::int64_t two[] = {2};
  const ExpertRows rows{two, {}, {}, {}};
  const RowPair x{t({2, 4}), {}};
  EXPECT_THROW(
      grouped_mlp_forward(ctx, Activation::swiglu, rows, x, t({1, 6, 4}), t({1, 4, 6}), t({2, 6}), x),
      InvariantError);
  EXPECT_THROW(grouped_mlp_forward(ctx, Activation::gelu, rows, x, t({2, 6, 4}), t({2, 4, 6}), t({2, 6}), x),
               InvariantError);
}

TEST(Activation, LargeArgumentsStayFinite) {
  for (const float x : {-1e4F, -100.0F, -30.0F, 0.0F, 30.0F, 100.0F, 1e4F}) {
    EXPECT_NEAR(cpu::Gelu::value(x), x > 0.0F ? x : 0.0F, 1e-6F * std::abs(x));
    EXPECT_NEAR(cpu::Gelu::derivative(x), x > 0.0F ? 1.0F : x == 0.0F ? 0.5F : 0.0F, 1e-5F);
    EXPECT_NEAR(cpu::sigmoid(x), x > 0.0F ? 1.0F : x == 0.0F ? 0.5F : 0.0F, 1e-6F);
  }
}

}  // namespace
}  // namespace xmoe
