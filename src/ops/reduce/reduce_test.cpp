#include "ops/reduce/reduce.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "support/device_test.h"
#include "support/op_case.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Reduce);

TEST_P(Reduce, AgreesWithTheReference) {
  const auto expect_sums = [&](DType dtype, std::int64_t count) {
    SCOPED_TRACE(fmt::format("{} of {}", count, name_of(dtype)));
    Arena arena(device(), MemoryTag::workspace);
    const Context ctx{arena};
    const Tensor x = arena.tensor(dtype, {count});
    fill_random(x, normal(1.0, 0.25), Rng(1, "x"));
    long double total = 0.0L;
    long double squares = 0.0L;
    for (const double v : to_doubles(x)) {
      total += static_cast<long double>(v);
      squares += static_cast<long double>(v) * static_cast<long double>(v);
    }
    // Sums in double: what is left of rounding is far below that of the float inputs.
    constexpr double kTolerance = 1e-12;
    if (dtype == DType::f32) {
      EXPECT_NEAR(sum(ctx, x), static_cast<double>(total), kTolerance * static_cast<double>(count + 1));
    }
    EXPECT_NEAR(sum_of_squares(ctx, x), static_cast<double>(squares),
                kTolerance * static_cast<double>(count + 1));
  };
  for (const std::int64_t count : {0, 1, 5, 8191, 8192, 8193, 100'003, 2'000'003})
    for (const DType dtype : {DType::f32, DType::bf16}) expect_sums(dtype, count);
}

TEST_P(Reduce, SumsSeveralTensors) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.tensor(DType::f32, {70'001});
  const Tensor y = arena.tensor(DType::bf16, {40'000});
  fill_random(x, normal(), Rng(1, "x"));
  fill_random(y, normal(), Rng(1, "y"));
  const Tensor odd = x.slice(1, 70'001);  // not aligned for wide accesses
  const Tensor tensors[] = {odd, x.slice(0, 0), y, Tensor{}};
  const double expected = sum_of_squares(ctx, odd) + sum_of_squares(ctx, y);
  EXPECT_NEAR(sum_of_squares(ctx, tensors), expected, 1e-12 * expected);
  from_doubles(std::vector<double>{std::numeric_limits<double>::quiet_NaN()}, y.slice(39'999, 40'000));
  EXPECT_FALSE(std::isfinite(sum_of_squares(ctx, tensors)));
}

TEST_P(Reduce, IsTheSameForAnyNumberOfThreads) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.tensor(DType::f32, {313, 331});
  fill_random(x, normal(), Rng(1, "x"));
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const double one = sum(ctx, x);
  const double one_squares = sum_of_squares(ctx, x);
  for (const int count : {2, 3, 5}) {
    omp_set_num_threads(count);
    EXPECT_EQ(sum(ctx, x), one);
    EXPECT_EQ(sum_of_squares(ctx, x), one_squares);
  }
  omp_set_num_threads(threads);
}

TEST_P(Reduce, ShowsWhatIsNotFinite) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.zeros(DType::f32, {20'000});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    from_doubles(std::vector<double>{static_cast<double>(bad)}, x.slice(19'999, 20'000));
    EXPECT_FALSE(std::isfinite(sum_of_squares(ctx, x)));
    EXPECT_FALSE(std::isfinite(sum(ctx, x)));
  }
  // The square of the largest float is finite in double.
  from_doubles(std::vector<double>{static_cast<double>(std::numeric_limits<float>::max())},
               x.slice(19'999, 20'000));
  EXPECT_TRUE(std::isfinite(sum_of_squares(ctx, x)));
}

TEST_P(Reduce, UndefinedAndWrongTensors) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  EXPECT_EQ(sum_of_squares(ctx, Tensor{}), 0.0);
  EXPECT_THROW(sum(ctx, arena.zeros(DType::bf16, {2})), InvariantError);
  EXPECT_THROW(sum_of_squares(ctx, arena.zeros(DType::f16, {2})), InvariantError);
}

}  // namespace
}  // namespace xmoe
