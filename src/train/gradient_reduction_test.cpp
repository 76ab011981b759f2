#include "train/gradient_reduction.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

class GradientReductionTest : public testing::Test {
 protected:
  GradientReductionTest() : world_(make_self_communicator()), mesh_(*world_, 1) {
    const auto declare = [&](const char* name, std::int64_t size, Replication replication, int stage) {
      parameters_.declare({.name = name, .global_shape = {size}, .replication = replication, .stage = stage});
    };
    declare("embedding", 64, Replication::all, 0);
    declare("norm.0", 32, Replication::all, 1);
    declare("experts.0", 96, Replication::expert, 1);
    declare("norm.1", 32, Replication::all, 2);
    declare("experts.1", 96, Replication::expert, 2);
    declare("output", 64, Replication::all, 3);
    parameters_.allocate(values_, &gradients_, mesh_, 1);
  }

  // "group:stage[begin,end)" of each bucket.
  std::string plan(std::int64_t elements) const {
    std::string text;
    for (const Bucket& b : plan_buckets(parameters_, mesh_, elements))
      text += fmt::format("{}:{}[{},{}) ", b.group, b.stage, b.whole.begin, b.whole.begin + b.whole.size);
    return text;
  }

  std::unique_ptr<Communicator> world_;
  Mesh mesh_;
  Arena values_{{}, MemoryTag::parameters};
  Arena gradients_{{}, MemoryTag::gradients};
  ParameterSet parameters_;
};

TEST_F(GradientReductionTest, BucketsAreWholeStagesInTheOrderOfBackward) {
  EXPECT_EQ(plan(1), "0:3[128,192) 0:2[96,128) 1:2[96,192) 0:1[64,96) 1:1[0,96) 0:0[0,64) ");
  EXPECT_EQ(plan(96), "0:2[96,192) 1:2[96,192) 1:1[0,96) 0:0[0,96) ");
  EXPECT_EQ(plan(1000), "1:1[0,192) 0:0[0,192) ");
}

TEST_F(GradientReductionTest, ABucketStartsOnceItsLowestStageIsComplete) {
  GradientReduction reduction(parameters_, mesh_, /*scatter=*/true, 96);
  std::vector<std::int64_t> calls;
  for (int stage = 3; stage >= 0; --stage) {
    reduction.start(stage);
    calls.push_back(mesh_.world().traffic().calls + mesh_.edp().traffic().calls);
  }
  reduction.wait_own_parts();
  reduction.finish();
  const std::int64_t first = calls.front();  // nothing is started by stage 3
  EXPECT_EQ(calls, (std::vector<std::int64_t>{first, first + 2, first + 3, first + 4}));
  EXPECT_EQ(mesh_.world().traffic().calls + mesh_.edp().traffic().calls, calls.back());
}

TEST_F(GradientReductionTest, WhatWasNotStartedIsByTheWait) {
  GradientReduction reduction(parameters_, mesh_, /*scatter=*/true, 1);
  for (int step = 0; step < 2; ++step) {
    const auto calls = [&] { return mesh_.world().traffic().calls + mesh_.edp().traffic().calls; };
    const std::int64_t before = calls();
    if (step == 1) reduction.start(2);
    reduction.wait_own_parts();
    reduction.finish();
    EXPECT_EQ(calls() - before, 6);
  }
}

}  // namespace
}  // namespace xmoe
