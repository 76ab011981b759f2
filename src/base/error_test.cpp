#include "base/error.h"

#include <gtest/gtest.h>

#include <string>

namespace xmoe {
namespace {

TEST(Error, CarriesMessageAndScope) {
  try {
    fail("{} has {} rows, expected {}", "a.bin", 3, 4);
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "a.bin has 3 rows, expected 4");
    EXPECT_EQ(e.scope(), ErrorScope::this_rank);
  }
  try {
    fail_everywhere("world size {}", 3);
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "world size 3");
    EXPECT_EQ(e.scope(), ErrorScope::every_rank);
  }
}

TEST(Error, CheckNamesPlaceConditionAndDetail) {
  const int rows = 3;
  XMOE_CHECK(rows == 3, "not reached");
  try {
    XMOE_CHECK(rows > 5, "got {}", rows);
    FAIL() << "the check passed";
  } catch (const InvariantError& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("error_test.cpp:"), std::string::npos) << message;
    EXPECT_NE(message.find("rows > 5: got 3"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace xmoe
