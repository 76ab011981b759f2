#include "ops/rope/rope.h"

#include <gtest/gtest.h>

#include "ops/rope/rope_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Rope);

TEST_P(Rope, AgreesWithTheReference) {
  EXPECT_OK(check(rope_case({.rows = 6, .heads = 2, .rotated = 2, .width = 8, .positions = 6}), device()));
  EXPECT_OK(check(rope_case({.rows = 10, .heads = 5, .rotated = 3, .width = 14, .positions = 5}), device()));
  EXPECT_OK(check(rope_case({.rows = 1, .heads = 1, .rotated = 1, .width = 2, .positions = 3}), device()));
  EXPECT_OK(check(rope_case({.rows = 7, .heads = 3, .rotated = 0, .width = 6, .positions = 7}), device()));
  EXPECT_OK(check(rope_case({.rows = 0, .heads = 3, .rotated = 2, .width = 6, .positions = 4}), device()));
  EXPECT_OK(
      check(rope_case({.rows = 300, .heads = 3, .rotated = 2, .width = 70, .positions = 300}), device()));
  EXPECT_OK(
      check(rope_case({.rows = 20, .heads = 10, .rotated = 8, .width = 128, .positions = 10}), device()));
}

TEST_P(Rope, TableByHand) {
  Arena arena(device(), MemoryTag::workspace);
  const Tensor table = arena.tensor(DType::f32, {3, 4});
  rope_table(100.0, table);  // frequencies 1 and 1/10
  const std::vector<double> expected = {1.0,           1.0,           0.0,           0.0,            //
                                        std::cos(1.0), std::cos(0.1), std::sin(1.0), std::sin(0.1),  //
                                        std::cos(2.0), std::cos(0.2), std::sin(2.0), std::sin(0.2)};
  EXPECT_OK(compare(table, expected, tolerance_for(DType::f32), "table"));
}

TEST_P(Rope, BackwardUndoesForward) {
  const OpCase op = rope_case({.rows = 9, .heads = 2, .rotated = 2, .width = 10, .positions = 9});
  OpRun run(op, DType::f32, device());
  run.forward();
  const Tensor x = run.out[0];
  Arena arena(device(), MemoryTag::workspace);
  const Tensor table = arena.tensor(DType::f32, {9, 10});
  rope_table(10000.0, table);
  rope(run.context(), RopeDirection::backward, 2, x, table);
  EXPECT_OK(compare(x, to_doubles(run.in[0]), tolerance_for(DType::f32, 2), "x"));
}

TEST_P(Rope, ChecksShapes) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.zeros(DType::f32, {2, 3, 4});
  const Tensor table = arena.zeros(DType::f32, {2, 4});
  EXPECT_THROW(rope(ctx, RopeDirection::forward, 4, x, table), InvariantError);
  EXPECT_THROW(rope(ctx, RopeDirection::forward, 3, x, arena.zeros(DType::f32, {2, 6})), InvariantError);
  EXPECT_THROW(rope_table(10000.0, arena.zeros(DType::f32, {2, 5})), InvariantError);
}

}  // namespace
}  // namespace xmoe
