#include "ops/runs/runs.h"

#include <gtest/gtest.h>

#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Runs);

std::vector<double> filled(const Device& device, const std::vector<Run>& runs, std::int64_t count) {
  Arena arena(device, MemoryTag::workspace);
  const Tensor out = arena.tensor(DType::i32, {count});
  fill_runs({arena}, runs, out);
  return to_doubles(out);
}

TEST_P(Runs, LieBehindEachOther) {
  EXPECT_EQ(filled(device(), {{7, 3}, {0, 0}, {2, 1}, {40, 2}}, 6),
            (std::vector<double>{7, 8, 9, 2, 40, 41}));
  EXPECT_EQ(filled(device(), {}, 0), std::vector<double>{});
  EXPECT_EQ(filled(device(), {{5, 0}}, 0), std::vector<double>{});
}

TEST_P(Runs, LongOnes) {
  constexpr std::int64_t kCount = 5000;  // more than the blocks of a run have threads
  std::vector<double> expected;
  for (std::int64_t i = 0; i < kCount; ++i) expected.push_back(static_cast<double>(100 + i));
  expected.push_back(3.0);
  EXPECT_EQ(filled(device(), {{100, kCount}, {3, 1}}, kCount + 1), expected);
}

TEST_P(Runs, ChecksArguments) { EXPECT_THROW(filled(device(), {{0, 2}}, 3), InvariantError); }

}  // namespace
}  // namespace xmoe
