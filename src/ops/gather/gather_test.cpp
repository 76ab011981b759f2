#include "ops/gather/gather.h"

#include <gtest/gtest.h>

#include "ops/gather/gather_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Gather);
XMOE_DEVICE_SUITE(Combine);

TEST_P(Gather, AgreesWithTheReference) {
  EXPECT_OK(check(gather_case(5, 13, 7), device()));
  EXPECT_OK(check(gather_case(1, 1, 1), device()));
  EXPECT_OK(check(gather_case(4, 0, 16), device()));
  EXPECT_OK(check(gather_case(130, 517, 129), device()));  // more than one thread's share
  EXPECT_OK(check(gather_case(9, 70, 2056), device()));    // beyond a block of wide accesses
}

TEST_P(Gather, NoTokensAndOnlyPadding) {
  OpCase op = gather_case(1, 6, 9);
  op.inputs[0].shape = {0, 9};
  op.inputs[1].fill = values({-1.0});
  EXPECT_OK(check(op, device()));
}

TEST_P(Combine, AgreesWithTheReference) {
  EXPECT_OK(check(combine_case(5, 3, 11, 7), device()));
  EXPECT_OK(check(combine_case(1, 1, 1, 1), device()));
  EXPECT_OK(check(combine_case(0, 4, 3, 16), device()));
  EXPECT_OK(check(combine_case(3, 0, 3, 16), device()));    // no slots: zeros
  EXPECT_OK(check(combine_case(9, 37, 20, 40), device()));  // more slots than are named at a time
  EXPECT_OK(check(combine_case(67, 8, 300, 600),
                  device()));  // more than one block of columns, and one thread's share
}

TEST_P(Combine, AllAssignmentsDropped) {
  OpCase op = combine_case(4, 2, 3, 10);
  op.inputs[0].shape = {0, 10};
  op.inputs[1].fill = values({-1.0});
  EXPECT_OK(check(op, device()));
}

// Slots are summed in order, in float, and rounded once: in bf16 steps the small terms would be lost.
TEST_P(Combine, SumsInFloat) {
  Arena arena(device(), MemoryTag::workspace);
  const Tensor rows = arena.tensor(DType::bf16, {2, 1});
  const Tensor index = arena.tensor(DType::i32, {1, 5});
  const Tensor out = arena.tensor(DType::bf16, {1, 1});
  from_doubles(std::vector<double>{256.0, 1.0}, rows);
  from_doubles(std::vector<double>{0.0, 1.0, 1.0, -1.0, 1.0}, index);
  combine_rows({arena}, rows, index, out);
  EXPECT_EQ(to_doubles(out), std::vector<double>{260.0});  // 259 lies half-way between 258 and 260
}

TEST_P(Gather, RejectsIndicesBeyondTheRows) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor x = arena.zeros(DType::f32, {3, 4});
  const Tensor index = arena.tensor(DType::i32, {2});
  const Tensor out = arena.zeros(DType::f32, {2, 4});
  from_doubles(std::vector<double>{0.0, 3.0}, index);
  const auto wait_for = [&](const auto& call) {
    call();
    synchronize(device());
  };
  EXPECT_THROW(wait_for([&] { gather_rows(ctx, x, index, out); }), InvariantError);
  EXPECT_THROW(wait_for([&] { combine_rows(ctx, x, index.reshape({2, 1}), out); }), InvariantError);
  EXPECT_THROW(gather_rows(ctx, x, index, x), InvariantError);
}

}  // namespace
}  // namespace xmoe
