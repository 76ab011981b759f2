#include "cli/same_command.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

TEST(SameCommand, NamesFlagsWithTheirValues) {
  const std::vector<std::string> a = {"train", "--lr", "1e-3", "--bf16", "--data-path",
                                      "0.5",   "x",    "0.5",  "y"};
  const std::vector<std::string> b = {"train", "--lr", "2e-3", "--data-path", "0.5", "x", "0.5", "y"};
  EXPECT_EQ(arguments_without(a, b), "--lr 1e-3 --bf16");
  EXPECT_EQ(arguments_without(b, a), "--lr 2e-3");
  EXPECT_EQ(arguments_without(a, a), "nothing");
  EXPECT_EQ(arguments_without({"eval"}, {"train"}), "eval");
}

}  // namespace
}  // namespace xmoe
