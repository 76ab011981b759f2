#include "model/initial_values/initial_values.h"

#include <gtest/gtest.h>

#include "model/initial_values/initial_values_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(FillInitialValues);

struct Part {
  Shape global;
  Sharding sharding;
};
Part part_of(const Shape& global, int axis, const std::vector<AxisRange>& ranges,
             const std::vector<AxisRange>& experts = {}) {
  Part part{global, {}};
  part.sharding.axes[0] = experts;
  part.sharding.axes[static_cast<std::size_t>(axis)] = ranges;
  return part;
}

// As layouts cut them, and odd: whole ones; rows of queries, keys and values; columns; experts whose gate and
// up rows are cut (TED), and whose last axis is; nothing at all, and a range of nothing.
std::vector<Part> parts() {
  return {{{1}, {}},
          {{7, 3}, {}},
          {{5, 3, 2, 7}, {}},
          {{211, 307}, {}},  // beyond a block, and beyond the work of a thread
          part_of({20, 5}, 0, {{3, 3}, {13, 1}, {17, 1}}),
          part_of({5, 12}, 1, {{4, 4}}),
          part_of({6, 10, 3}, 1, {{1, 4}, {6, 4}}, {{2, 2}}),
          part_of({4, 33, 51}, 2, {{17, 17}}, {{1, 3}}),
          part_of({4, 6}, 1, {{0, 2}, {3, 0}, {5, 1}}),
          {{0, 4}, {}},
          part_of({4, 6}, 0, {{2, 0}})};
}

const Rng kRng(7, "w");
constexpr InitialValues kNormal{.deviation = 0.02};

Tensor filled(Arena& arena, DType dtype, const Part& part) {
  const ShardIndex index(part.global, part.sharding);
  const Tensor out = arena.tensor(dtype, {index.numel()});
  fill_initial_values({arena}, kNormal, kRng, index, 0, out);
  return out;
}

TEST_P(FillInitialValues, AgreeWithTheReference) {
  for (const auto& [global, sharding] : parts()) {
    EXPECT_OK(check(initial_values_case(global, sharding), device()));
    EXPECT_OK(check(initial_values_case(global, sharding, {.constant = 0.3F}), device()));
  }
}

// Bit for bit on the CPU. On a GPU a rare one may be the neighbour of the host's (initial_values.h); none of
// these is.
TEST_P(FillInitialValues, AreTheHostsNumbers) {
  for (const DType dtype : kComputeDtypes)
    for (const Part& part : parts()) {
      Arena arena(device(), MemoryTag::parameters);
      const auto actual = to_doubles(filled(arena, dtype, part));
      const auto elements = elements_of(part.global, part.sharding);
      ASSERT_EQ(actual.size(), elements.size());
      std::size_t different = 0;
      for (std::size_t i = 0; i < elements.size(); ++i) {
        const auto number =
            static_cast<float>(kNormal.deviation * kRng.normal(static_cast<std::uint64_t>(elements[i])));
        const double expected = with_float(
            dtype, [&]<typename T>(T) -> double { return static_cast<float>(static_cast<T>(number)); });
        if (actual[i] != expected) ++different;
      }
      EXPECT_EQ(different, 0U) << name_of(dtype) << " " << to_string(part.global);
    }
}

TEST_P(FillInitialValues, OfAPartAreThoseOfTheWhole) {
  for (const DType dtype : kComputeDtypes)
    for (const Part& part : parts()) {
      Arena arena(device(), MemoryTag::parameters);
      const auto whole = to_doubles(filled(arena, dtype, {part.global, {}}));
      std::vector<double> expected;
      for (const std::int64_t e : elements_of(part.global, part.sharding))
        expected.push_back(whole.at(static_cast<std::size_t>(e)));
      EXPECT_EQ(to_doubles(filled(arena, dtype, part)), expected)
          << name_of(dtype) << " " << to_string(part.global);
    }
}

// From elements that are no multiples of anything, into memory that is not aligned.
TEST_P(FillInitialValues, InPiecesAreThoseAtOnce) {
  const Part part = part_of({4, 33, 51}, 2, {{17, 17}}, {{1, 3}});
  const ShardIndex index(part.global, part.sharding);
  for (const DType dtype : kComputeDtypes) {
    Arena arena(device(), MemoryTag::parameters);
    const Tensor at_once = filled(arena, dtype, part);
    const Tensor in_pieces = arena.zeros(dtype, {index.numel() + 1});
    const std::int64_t bounds[] = {0, 5, 5, 300, 301, index.numel()};
    for (std::size_t i = 0; i + 1 < std::size(bounds); ++i)
      fill_initial_values({arena}, kNormal, kRng, index, bounds[i],
                          in_pieces.slice(bounds[i], bounds[i + 1]));
    EXPECT_OK(compare_bits(in_pieces.slice(0, index.numel()), at_once, "pieces"));
    EXPECT_EQ(to_doubles(in_pieces.slice(index.numel(), index.numel() + 1)), std::vector<double>{0.0});
  }
}

TEST_P(FillInitialValues, ChecksArguments) {
  Arena arena(device(), MemoryTag::parameters);
  const ShardIndex index({2, 3}, {});
  const auto fill = [&](std::int64_t first, const Tensor& out) {
    fill_initial_values({arena}, kNormal, kRng, index, first, out);
  };
  EXPECT_THROW(fill(0, arena.tensor(DType::f32, {7})), InvariantError);
  EXPECT_THROW(fill(1, arena.tensor(DType::f32, {6})), InvariantError);
  EXPECT_THROW(fill(-1, arena.tensor(DType::f32, {6})), InvariantError);
  EXPECT_THROW(fill(0, arena.tensor(DType::f32, {2, 3})), InvariantError);
  EXPECT_THROW(fill(0, arena.tensor(DType::i32, {6})), Error);
}

}  // namespace
}  // namespace xmoe
