#include "train/checkpoint/boxes.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "base/rng.h"
#include "support/shard_elements.h"

namespace xmoe {
namespace {

// Row-major index in the global tensor of element `at` of a box.
std::int64_t global_index(const Box& box, const Shape& global, std::int64_t at) {
  std::int64_t index = 0;
  std::int64_t stride = 1;
  for (int axis = global.rank() - 1; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    index += (box.offset[i] + at % box.extent[axis]) * stride;
    at /= box.extent[axis];
    stride *= global[axis];
  }
  return index;
}

// Calls f(global element, element of the memory) for every element of the boxes.
template <typename F>
void for_each_element(const std::vector<PlacedBox>& boxes, const Shape& global, F&& f) {
  for (const auto& placed : boxes) {
    std::int64_t at = 0;  // in the box
    for_each_stretch(placed, dense(placed.box), [&](std::int64_t memory, std::int64_t order, std::int64_t n) {
      EXPECT_EQ(order, at) << "not in row-major order";
      for (std::int64_t i = 0; i < n; ++i) f(global_index(placed.box, global, at++), memory + i);
    });
    EXPECT_EQ(at, placed.box.extent.numel());
  }
}

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : rng_(seed, "boxes") {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(rng_.below(next_++, static_cast<std::uint32_t>(n)));
  }

 private:
  Rng rng_;
  std::uint64_t next_ = 0;
};

Shape random_shape(Dice& dice) {
  std::vector<std::int64_t> dims(static_cast<std::size_t>(1 + dice.below(Shape::kMaxRank)));
  for (auto& d : dims) d = 1 + dice.below(6);
  return Shape(dims);
}

// Along each axis nothing, or up to three ranges in ascending order.
Sharding random_sharding(Dice& dice, const Shape& global) {
  Sharding sharding;
  for (int axis = 0; axis < global.rank(); ++axis) {
    auto& ranges = sharding.axes[static_cast<std::size_t>(axis)];
    std::int64_t position = 0;
    for (std::int64_t n = dice.below(4); n > 0 && position < global[axis]; --n) {
      const std::int64_t begin = position + dice.below(global[axis] - position);
      const std::int64_t size = 1 + dice.below(global[axis] - begin);
      ranges.push_back({begin, size});
      position = begin + size;
    }
  }
  return sharding;
}

TEST(Boxes, OfRunsOfRandomShardingsHoldTheRightElements) {
  Dice dice(1);
  for (int i = 0; i < 3000; ++i) {
    const Shape global = random_shape(dice);
    const Sharding sharding = random_sharding(dice, global);
    const std::int64_t numel = sharding.local_shape(global).numel();
    const std::int64_t begin = dice.below(numel + 1);
    const std::int64_t end = begin + dice.below(numel - begin + 1);
    const auto boxes = boxes_of_run(global, sharding, begin, end);
    std::vector<std::int64_t> found(static_cast<std::size_t>(end - begin), -1);
    for_each_element(boxes, global, [&](std::int64_t element, std::int64_t memory) {
      ASSERT_TRUE(0 <= memory && memory < end - begin);
      EXPECT_EQ(found[static_cast<std::size_t>(memory)], -1) << "twice";
      found[static_cast<std::size_t>(memory)] = element;
    });
    std::size_t most = static_cast<std::size_t>(2 * global.rank() - 1);
    for (const auto& ranges : sharding.axes) most *= std::max<std::size_t>(1, ranges.size());
    EXPECT_LE(boxes.size(), most);
    for (std::int64_t e = begin; e < end; ++e)
      ASSERT_EQ(found[static_cast<std::size_t>(e - begin)], global_index(global, sharding, e))
          << to_string(global) << " element " << e << " of " << begin << " to " << end;
  }
}

TEST(Boxes, OfAWholePartAreAsFewAsItsRanges) {
  Sharding sharding;
  EXPECT_EQ(boxes_of_run({4, 6}, sharding, 0, 24).size(), 1U);
  sharding.axes[1] = {{0, 2}, {3, 1}};  // columns 0, 1 and 3
  const auto boxes = boxes_of_run({4, 6}, sharding, 0, 12);
  ASSERT_EQ(boxes.size(), 2U);
  EXPECT_EQ(boxes[1].box, (Box{{0, 3}, {4, 1}}));
  EXPECT_EQ(boxes[1].at, 2);
  EXPECT_EQ(boxes[1].strides[0], 3);
  EXPECT_TRUE(boxes_of_run({4, 6}, sharding, 5, 5).empty());
  EXPECT_TRUE(boxes_of_run({0, 6}, {}, 0, 0).empty());
}

TEST(Boxes, CopiesBetweenRandomPlaces) {
  Dice dice(2);
  int copied = 0;
  for (int i = 0; i < 1000; ++i) {
    const Shape global = random_shape(dice);
    const Sharding a = random_sharding(dice, global);
    const Sharding b = random_sharding(dice, global);
    std::vector<std::int64_t> from(static_cast<std::size_t>(a.local_shape(global).numel()));
    for (std::size_t e = 0; e < from.size(); ++e)
      from[e] = global_index(global, a, static_cast<std::int64_t>(e));
    std::vector<std::int64_t> to(static_cast<std::size_t>(b.local_shape(global).numel()), -1);
    const auto sources = boxes_of_run(global, a, 0, static_cast<std::int64_t>(from.size()));
    for (const auto& target : boxes_of_run(global, b, 0, static_cast<std::int64_t>(to.size()))) {
      for (const auto& source : sources) {
        if (const auto shared = intersection(target.box, source.box))
          for_each_stretch(part_of(target, *shared), part_of(source, *shared),
                           [&](std::int64_t in_to, std::int64_t in_from, std::int64_t n) {
                             std::copy_n(from.begin() + in_from, n, to.begin() + in_to);
                           });
      }
    }
    for (std::size_t e = 0; e < to.size(); ++e) {
      const std::int64_t element = global_index(global, b, static_cast<std::int64_t>(e));
      const bool held = std::find(from.begin(), from.end(), element) != from.end();
      ASSERT_EQ(to[e], held ? element : -1);
      copied += held;
    }
  }
  EXPECT_GT(copied, 1000);
}

// Random sets of boxes, most of them no cover, against a count of every element.
TEST(Boxes, CoverIsExactWhenEveryElementIsThereOnce) {
  Dice dice(3);
  int exact = 0;
  for (int i = 0; i < 5000; ++i) {
    const Shape global = random_shape(dice);
    // A tensor cut in two, again and again, is covered; then some boxes are changed.
    std::vector<Box> boxes = {whole_box(global)};
    for (std::int64_t cuts = dice.below(6); cuts > 0; --cuts) {
      const auto victim = static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(boxes.size())));
      const int axis = static_cast<int>(dice.below(global.rank()));
      Box& first = boxes[victim];
      if (first.extent[axis] < 2) continue;
      Box second = first;
      const std::int64_t cut = 1 + dice.below(first.extent[axis] - 1);
      first.extent[axis] = cut;
      second.offset[static_cast<std::size_t>(axis)] += cut;
      second.extent[axis] -= cut;
      boxes.push_back(second);
    }
    for (std::int64_t changes = dice.below(3); changes > 0; --changes) {
      const auto victim = static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(boxes.size())));
      const int axis = static_cast<int>(dice.below(global.rank()));
      auto& offset = boxes[victim].offset[static_cast<std::size_t>(axis)];
      const std::int64_t end = offset + boxes[victim].extent[axis];
      offset = dice.below(end + 1);
      boxes[victim].extent[axis] = end - offset;
    }
    std::vector<int> times(static_cast<std::size_t>(global.numel()), 0);
    for (const Box& box : boxes) {
      for (std::int64_t e = 0; e < box.extent.numel(); ++e)
        ++times[static_cast<std::size_t>(global_index(box, global, e))];
    }
    const auto wrong = std::find_if(times.begin(), times.end(), [](int n) { return n != 1; });
    const auto found = find_miscovered(global, boxes);
    ASSERT_EQ(found.has_value(), wrong != times.end());
    exact += !found.has_value();
    if (!found) continue;
    const Box element = {found->element, {1, 1, 1, 1}};
    ASSERT_EQ(global_index(element, global, 0), wrong - times.begin()) << "it is the first that is named";
    ASSERT_EQ(found->missing, *wrong == 0);
  }
  EXPECT_GT(exact, 500);
  EXPECT_LT(exact, 4500);
}

TEST(Boxes, HavePythonsNames) {
  EXPECT_EQ(name_of_box("w", whole_box({3, 4}), {3, 4}), "w");
  EXPECT_EQ(name_of_box("w", {{1, 0}, {2, 4}}, {3, 4}), "w[1:3,0:4]");
  EXPECT_EQ(name_of_box("b", {{2}, {1}}, {3}), "b[2:3]");
}

TEST(Boxes, IntersectWhereTheyShareElements) {
  EXPECT_EQ(intersection({{0, 2}, {2, 2}}, {{1, 0}, {3, 3}}), (Box{{1, 2}, {1, 1}}));
  EXPECT_EQ(intersection({{0, 0}, {2, 2}}, {{2, 0}, {1, 2}}), std::nullopt);
}

}  // namespace
}  // namespace xmoe
