#include "ops/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "ops/elementwise/elementwise_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Elementwise);

constexpr std::array kKinds = {ElementKind::compute, ElementKind::f32};
// Odd, empty, one, and more than one thread's share.
const std::array kShapes = {Shape{3, 7}, Shape{0, 5}, Shape{1}, Shape{211, 307}};

TEST_P(Elementwise, AddsEveryMixOfDtypes) {
  for (const Shape& shape : kShapes)
    for (const ElementKind a : kKinds)
      for (const ElementKind b : kKinds)
        for (const ElementKind out : kKinds) EXPECT_OK(check(add_case(shape, a, b, out), device()));
}

TEST_P(Elementwise, AddsInPlace) {
  for (const DType dtype : kComputeDtypes)
    for (const std::size_t target : {std::size_t{0}, std::size_t{1}}) {
      const OpCase op = add_case({5, 19});
      OpRun run(op, dtype, device());
      run.forward();
      add(run.context(), run.in[0], run.in[1], run.in[target]);
      EXPECT_OK(compare_bits(run.in[target], run.out[0], "in place"));
    }
}

// A slice that begins between two wide accesses.
TEST_P(Elementwise, AddsWhereMemoryIsNotAligned) {
  const OpCase op = add_case({40});
  for (const DType dtype : kComputeDtypes) {
    OpRun run(op, dtype, device());
    run.forward();
    Arena arena(device(), MemoryTag::workspace);
    const Tensor out = arena.zeros(dtype, {40});
    add(run.context(), run.in[0].slice(3, 39), run.in[1].slice(3, 39), out.slice(3, 39));
    EXPECT_OK(compare_bits(out.slice(3, 39), run.out[0].slice(3, 39), "slice"));
    EXPECT_EQ(to_doubles(out.slice(0, 3)), std::vector<double>(3, 0.0));
    EXPECT_EQ(to_doubles(out.slice(39, 40)), std::vector<double>(1, 0.0));
  }
}

TEST_P(Elementwise, ConvertsBetweenDtypes) {
  for (const Shape& shape : kShapes)
    for (const ElementKind from : kKinds)
      for (const ElementKind to : kKinds) EXPECT_OK(check(convert_case(shape, from, to), device()));
}

TEST_P(Elementwise, ConversionKeepsNanAndInfinity) {
  Arena arena(device(), MemoryTag::workspace);
  const Tensor from = arena.tensor(DType::f32, {40});
  const double infinity = std::numeric_limits<double>::infinity();
  // The last two are finite in bf16; in f16 the second of them lies beyond the largest.
  fill_random(from, values({std::numeric_limits<double>::quiet_NaN(), infinity, -infinity, 65519.0, 3e38}),
              Rng(1, 0));
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor to = arena.tensor(dtype, {40});
    convert({arena}, from, to);
    const auto result = to_doubles(to);
    for (std::size_t i = 0; i < result.size(); i += 5) {
      EXPECT_TRUE(std::isnan(result[i]));
      EXPECT_EQ(result[i + 1], infinity);
      EXPECT_EQ(result[i + 2], -infinity);
      EXPECT_EQ(result[i + 3], dtype == DType::f16 ? 65504.0 : 65536.0);
      EXPECT_EQ(std::isfinite(result[i + 4]), dtype == DType::bf16);
    }
  }
}

TEST_P(Elementwise, FillsAndCopiesAnyDtype) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i32, DType::i64})
    for (const Shape& shape : kShapes) {
      Arena arena(device(), MemoryTag::workspace);
      const Tensor from = arena.tensor(dtype, shape);
      const Tensor to = arena.tensor(dtype, shape);
      fill_random(from, integers(-9, 10), Rng(1, "from"));
      fill_random(to, integers(-9, 10), Rng(1, "to"));
      copy({arena}, from, to);
      EXPECT_OK(compare_bits(to, from, "copy"));
      fill_zero({arena}, to);
      EXPECT_EQ(to_doubles(to), std::vector<double>(static_cast<std::size_t>(shape.numel()), 0.0));
    }
}

TEST_P(Elementwise, ChecksShapes) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor a = arena.zeros(DType::f32, {2, 3});
  const Tensor b = arena.zeros(DType::f32, {3, 2});
  EXPECT_THROW(add(ctx, a, b, a), InvariantError);
  EXPECT_THROW(convert(ctx, a, b), InvariantError);
  const Tensor half = arena.zeros(DType::f16, {2, 3});
  EXPECT_THROW(convert(ctx, half, arena.zeros(DType::bf16, {2, 3})), InvariantError);
  EXPECT_THROW(add(ctx, half, a, arena.zeros(DType::bf16, {2, 3})), InvariantError);
  EXPECT_THROW(copy(ctx, a, arena.zeros(DType::bf16, {2, 3})), InvariantError);
}

}  // namespace
}  // namespace xmoe
