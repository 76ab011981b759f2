#include "comm/same_program.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

TEST(SameProgram, AllAlikeIsNothing) {
  EXPECT_EQ(ranks_that_differ({"a"}, {"x"}), "");
  EXPECT_EQ(ranks_that_differ({"a", "a", "a"}, {"x", "x", "y"}), "");
  expect_same_program(*make_self_communicator());
}

TEST(SameProgram, NamesTheRanksOutsideTheMajority) {
  EXPECT_EQ(ranks_that_differ({"b", "a", "a"}, {"x", "x", "y"}), "rank 0 on x");
  EXPECT_EQ(ranks_that_differ({"a", "a", "a", "a", "b", "b", "b"}, {"x", "x", "x", "x", "x", "y", "y"}),
            "rank 4 on x, ranks 5-6 on y");
  EXPECT_EQ(ranks_that_differ({"a", "b"}, {"x", "y"}), "rank 1 on y");  // nobody is the majority
  EXPECT_EQ(ranks_that_differ({"a", "b", "c", "a"}, {"x", "x", "x", "x"}), "rank 1 on x, rank 2 on x");
}

TEST(SameProgram, LongListsAreShort) {
  std::vector<std::string> fingerprints;
  for (int r = 0; r < 101; ++r) fingerprints.emplace_back(r % 2 == 1 && r < 80 ? "b" : "a");
  const std::string text = ranks_that_differ(fingerprints, std::vector<std::string>(101, "x"));
  EXPECT_TRUE(text.ends_with("rank 31 on x and 24 more")) << text;
}

}  // namespace
}  // namespace xmoe
