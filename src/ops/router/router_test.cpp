#include "ops/router/router.h"

#include <gtest/gtest.h>

#include "ops/router/router_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Router);

// The CPU's products may be rounded differently by other numbers of threads; a GPU's never are.
TEST_P(Router, AgreesWithTheReference) {
  for (const OpCase& op : {router_case(1, 1, 1), router_case(0, 8, 3), router_case(13, 40, 7),
                           router_case(37, 333, 5), router_case(37, 2056, 8), router_case(70, 33, 16)})
    for (const DType dtype : kComputeDtypes) {
      EXPECT_OK(check_forward(op, dtype, device()));
      EXPECT_OK(check_backward(op, dtype, device()));
      if (device().is_cpu()) continue;
      EXPECT_OK(check_against_cpu(op, dtype, device()));  // all elements
      EXPECT_OK(check_repeated(op, dtype, device()));
    }
}

// With x in 16 bits nothing of the weights and of dlogits is lost: digits of three different heights count.
TEST_P(Router, KeepsAllDigitsOfWeights) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const double digits = 1.0 + 0x1p-11 + 0x1p-22;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Tensor x = arena.tensor(dtype, {1, 2});
    const Tensor w = arena.tensor(DType::f32, {1, 2});
    const Tensor logits = arena.tensor(DType::f32, {1, 1});
    from_doubles(std::vector<double>{1.0, 0.0}, x);
    from_doubles(std::vector<double>{digits, 1.0}, w);
    router_logits(ctx, x, w, logits);
    EXPECT_EQ(to_doubles(logits), std::vector<double>{digits});
    const Tensor dlogits = logits;  // the same digits
    const Tensor dw = arena.zeros(DType::f32, {1, 2});
    const Tensor dx = arena.zeros(dtype, {1, 2});
    router_backward(ctx, dlogits, x, w, dw, dx);
    EXPECT_EQ(to_doubles(dw), (std::vector<double>{digits, 0.0}));
    // Rounded to nearest, of a product that is short of digits far below that.
    const double half_a_step = dtype == DType::f16 ? 0x1p-11 : 0x1p-8;
    EXPECT_NEAR(to_doubles(dx)[0], digits * digits, half_a_step + 0x1p-16);
    EXPECT_NEAR(to_doubles(dx)[1], digits, half_a_step + 0x1p-16);
  }
}

TEST_P(Router, ChecksArguments) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.zeros(DType::bf16, {3, 4});
  const Tensor w = arena.zeros(DType::f32, {2, 4});
  const Tensor logits = arena.zeros(DType::f32, {3, 2});
  EXPECT_THROW(router_logits(ctx, x, arena.zeros(DType::bf16, {2, 4}), logits), InvariantError);
  EXPECT_THROW(router_logits(ctx, x, w, arena.zeros(DType::f32, {3, 3})), InvariantError);
  EXPECT_THROW(router_backward(ctx, logits, x, w, w, logits), InvariantError);
}

}  // namespace
}  // namespace xmoe
