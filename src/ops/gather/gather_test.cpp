#include "ops/gather/gather.h"

#include <gtest/gtest.h>

#include "ops/gather/gather_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Gather);
XMOE_DEVICE_SUITE(Scatter);
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

// Every row of a permutation, some of them left out; what no index names stays.
void check_scatter(std::int64_t routed, std::int64_t rows, std::int64_t width, DType dtype,
                   const Device& device) {
  Arena arena(device, MemoryTag::workspace);
  const Tensor x = arena.tensor(dtype, {routed, width});
  const Tensor index = arena.tensor(DType::i32, {routed});
  const Tensor out = arena.tensor(dtype, {rows, width});
  fill_random(x, integers(-100, 100), Rng(1, "x"));
  fill_random(out, integers(-100, 100), Rng(2, "out"));
  std::vector<double> ids;
  for (std::int64_t i = 0; i < routed; ++i)
    ids.push_back(i % 5 == 3 ? -1.0 : static_cast<double>((i * 7 + 2) % rows));
  from_doubles(ids, index);
  std::vector<double> expected = to_doubles(out);
  const std::vector<double> values = to_doubles(x);
  for (std::int64_t i = 0; i < routed; ++i)
    for (std::int64_t h = 0; h < width; ++h)
      if (const auto to = static_cast<std::int64_t>(ids[static_cast<std::size_t>(i)]); to >= 0)
        expected[static_cast<std::size_t>(to * width + h)] = values[static_cast<std::size_t>(i * width + h)];
  scatter_rows({arena}, x, index, out);
  EXPECT_EQ(to_doubles(out), expected) << routed << " rows of " << width;
}

TEST_P(Scatter, WritesTheRowsNamedAndNoOthers) {
  for (const DType dtype : kComputeDtypes) {
    check_scatter(11, 15, 7, dtype, device());
    check_scatter(600, 1000, 1, dtype, device());
    check_scatter(0, 3, 5, dtype, device());
    check_scatter(40, 41, 2056, dtype, device());  // beyond a block of wide accesses
  }
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
  EXPECT_THROW(wait_for([&] { scatter_rows(ctx, out, index, x); }), InvariantError);
  EXPECT_THROW(wait_for([&] { combine_rows(ctx, x, index.reshape({2, 1}), out); }), InvariantError);
  EXPECT_THROW(gather_rows(ctx, x, index, x), InvariantError);
}

}  // namespace
}  // namespace xmoe
