#include "model/sharding.h"
#include "support/shard_elements.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

TEST(Sharding, RunsAreOfElementsThatFollowEachOther) {
  Sharding whole;
  Sharding cut;
  cut.axes[0] = {{1, 2}};
  cut.axes[2] = {{0, 2}, {3, 0}, {5, 3}};
  Sharding last;
  last.axes[1] = {{4, 2}};
  for (const Sharding& sharding : {whole, cut, last}) {
    const Shape global{4, 6, 8};
    const ShardIndex part(global, sharding);
    EXPECT_EQ(part.numel(), sharding.local_shape(global).numel());
    for (std::int64_t local = 0; local < part.numel(); ++local) {
      const ShardIndex::Run run = part.run_at(local);
      ASSERT_GE(run.count, 1);
      ASSERT_LE(local + run.count, part.numel());
      for (std::int64_t k = 0; k < run.count; ++k)
        ASSERT_EQ(global_index(global, sharding, local + k), run.index + k) << local << " + " << k;
    }
  }
  EXPECT_EQ(ShardIndex({7}, whole).run_at(3).count, 4);
}

TEST(Sharding, ElementsOfAPart) {
  Sharding sharding;
  sharding.axes[0] = {{2, 1}};
  sharding.axes[1] = {{1, 2}, {5, 1}};
  const ShardIndex part({4, 6}, sharding);
  EXPECT_EQ(part.numel(), 3);
  EXPECT_EQ(part.run_at(0).index, 13);
  EXPECT_EQ(part.run_at(0).count, 2);
  EXPECT_EQ(part.run_at(1).index, 14);
  EXPECT_EQ(part.run_at(1).count, 1);
  EXPECT_EQ(part.run_at(2).index, 17);
  EXPECT_EQ(part.run_at(2).count, 1);
}

TEST(Sharding, RefusesMoreRangesThanAnIndexHas) {
  Sharding sharding;
  sharding.axes[0] = {{0, 1}, {2, 1}, {4, 1}, {6, 1}};
  EXPECT_THROW(ShardIndex({8}, sharding), InvariantError);
}

}  // namespace
}  // namespace xmoe
