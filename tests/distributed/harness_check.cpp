// Tests that must fail, each in the way its name says: they show that the frame of the distributed tests
// notices.
#include <gtest/gtest.h>

#include "distributed/support.h"

namespace {

using xmoe::distributed::world;

TEST(Harness, FailsOnTheLastRankOnly) { EXPECT_NE(world().rank(), world().size() - 1); }

TEST(Harness, HangsOnAllButOneRank) {
  if (world().rank() > 0) world().barrier();
}

}  // namespace

int main(int argc, char** argv) { return xmoe::distributed::run_tests(argc, argv); }
