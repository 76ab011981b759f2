#include "ops/norm/norm.h"

#include <gtest/gtest.h>

#include <array>

#include "ops/norm/norm_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Norm);

constexpr std::array kKinds = {NormKind::rms_norm, NormKind::layer_norm};

TEST_P(Norm, AgreesWithTheReference) {
  for (const NormKind kind : kKinds) {
    EXPECT_OK(check(norm_case(kind, 3, 16), device()));
    EXPECT_OK(
        check(norm_case(kind, 70, 33), device()));  // more than one block of rows; a width beyond vectors
    EXPECT_OK(check(norm_case(kind, 1, 1023), device()));
    EXPECT_OK(check(norm_case(kind, 1, 2), device()));
    EXPECT_OK(check(norm_case(kind, 520, 24), device()));    // more rows than a GPU's backward has blocks
    EXPECT_OK(check(norm_case(kind, 3, 4200), device()));    // beyond a block of wide accesses
    EXPECT_OK(check(norm_case(kind, 1, 11'000), device()));  // sums that do not fit shared memory
    EXPECT_OK(check(norm_case(kind, 0, 64), device()));
  }
}

XMOE_GPU_SUITE(GpuNorm);

// Several rows for each of backward's blocks of several warps: in registers (one pack a thread and two), in
// shared memory, and where no access is wide.
TEST_P(GpuNorm, AgreesWithTheCpu) {
  for (const NormKind kind : kKinds)
    for (const DType dtype : kComputeDtypes)
      for (const Shape& shape : {Shape{1100, 2048}, Shape{530, 4352}, Shape{530, 2051}, Shape{300, 8200}}) {
        const std::int64_t rows = is_emulated(device()) ? 7 : shape[0];  // not several for each block then
        EXPECT_OK(check_against_cpu(norm_case(kind, rows, shape[1]), dtype, device()));
      }
}

TEST_P(Norm, ByHand) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.tensor(DType::f32, {1, 2});
  const Tensor weight = arena.tensor(DType::f32, {2});
  const Tensor bias = arena.tensor(DType::f32, {2});
  const Tensor y = arena.tensor(DType::f32, {1, 2});
  const Tensor stats = arena.tensor(DType::f32, {1, 2});
  from_doubles(std::vector<double>{1.0, 7.0}, x);
  from_doubles(std::vector<double>{2.0, 10.0}, weight);
  from_doubles(std::vector<double>{0.5, -0.5}, bias);
  norm_forward(ctx, NormKind::rms_norm, 0.0F, x, weight, {}, y, stats);  // root mean square 5
  EXPECT_OK(compare(y, std::vector<double>{0.4, 14.0}, tolerance_for(DType::f32), "rms"));
  norm_forward(ctx, NormKind::layer_norm, 0.0F, x, weight, bias, y, stats);  // mean 4, deviation 3
  EXPECT_OK(compare(y, std::vector<double>{-1.5, 9.5}, tolerance_for(DType::f32), "layer"));
  EXPECT_OK(compare(stats, std::vector<double>{4.0, 1.0 / 3.0}, tolerance_for(DType::f32), "stats"));
}

TEST_P(Norm, RecomputeIsEqualBitForBit) {
  for (const NormKind kind : kKinds)
    for (const DType dtype : kComputeDtypes)
      for (const std::int64_t width : {31, 64, 1000}) {
        const OpCase op = norm_case(kind, 37, width);
        OpRun run(op, dtype, device());
        run.forward();
        Arena arena(device(), MemoryTag::workspace);
        const Tensor again = arena.tensor(dtype, run.out[0].shape());
        norm_recompute(run.context(), kind, run.in[0], run.in[1],
                       kind == NormKind::layer_norm ? run.in[2] : Tensor{}, run.out[1], again);
        EXPECT_OK(compare_bits(again, run.out[0], op.name));
      }
}

// A row of equal values has no deviation: epsilon must keep layer_norm finite.
TEST_P(Norm, ConstantRowsStayFinite) {
  for (const NormKind kind : kKinds) {
    OpCase op = norm_case(kind, 2, 40);
    op.inputs[0].fill = values({0.0});
    for (const DType dtype : kComputeDtypes) EXPECT_OK(check_forward(op, dtype, device()));
  }
}

TEST_P(Norm, ChecksShapes) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.zeros(DType::f32, {2, 4});
  const Tensor weight = arena.zeros(DType::f32, {4});
  const Tensor stats = arena.zeros(DType::f32, {2, 2});
  EXPECT_THROW(norm_forward(ctx, NormKind::rms_norm, 1e-5F, x, arena.zeros(DType::f32, {5}), {}, x, stats),
               InvariantError);
  EXPECT_THROW(norm_forward(ctx, NormKind::layer_norm, 1e-5F, x, weight, {}, x, stats), InvariantError);
  EXPECT_THROW(norm_forward(ctx, NormKind::rms_norm, 1e-5F, x, weight, {}, x, arena.zeros(DType::f32, {2})),
               InvariantError);
}

}  // namespace
}  // namespace xmoe
