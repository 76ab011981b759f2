#include "train/start_up.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

TrainConfig config() {
  TrainConfig c;
  c.model.layers = 2;
  c.model.hidden = 8;
  c.model.heads = 2;
  c.model.seq_length = 16;
  c.model.vocabulary = 32;
  c.model.moe.router.experts = 8;
  c.parallel.layout = {.tensor = 2, .expert = 4};
  c.parallel.zero_stage = 1;
  c.batch.micro = 3;
  c.batch.global = 24;
  c.batch.train_iterations = 10;
  c.validation.iterations = 2;
  c.resolve(8);
  return c;
}

StartUpFacts facts() {
  StartUpFacts f;
  f.topology = {.node_of = {0, 0, 0, 0, 1, 1, 1, 1}, .host_names = {"a", "b"}};
  f.threads = 2;
  f.tokens_per_epoch = 7680;
  f.validation_windows = 100;
  return f;
}

TEST(StartUp, LinesSayHowTheTrainingRuns) {
  const std::vector<std::string> lines = start_up_lines(config(), facts());
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_NE(lines[0].find("2 layers, hidden 8, 8 experts, top-2"), std::string::npos) << lines[0];
  EXPECT_EQ(
      lines[1],
      "layout: 2 nodes of 4 ranks, 2 threads each; tensor parallel 2, data parallel 4, expert parallel 4 "
      "(ep-first), replicas of an expert 2, MoE blocks on parts of the sequence");
  EXPECT_EQ(lines[2],
            "batch: 24 sequences in 2 micro-batches of 12 sequences of 16 tokens; f32, ZeRO stage 1");
  // 10 * 24 * 16 tokens of 7680; two batches of 24 are validated on.
  EXPECT_EQ(lines[3],
            "data: 0.01 M tokens an epoch, 0.50 epochs in 10 iterations; validation on 48 of 100 windows of "
            "16 tokens");
  EXPECT_TRUE(lines[5].starts_with("mesh of 8 ranks on 2 nodes: tp 2, dp 4, ep 4, edp 2;")) << lines[5];
  EXPECT_NE(lines[5].find("      0  a     0-3\n"), std::string::npos) << lines[5];
  EXPECT_FALSE(lines[5].ends_with('\n'));
}

TEST(StartUp, WarnsOfLostModelsAndSharedCores) {
  TrainConfig c = config();
  c.checkpoint.save = "run";
  StartUpFacts f = facts();
  EXPECT_TRUE(start_up_warnings(c, f).empty());  // of cores nothing is known
  f.cores = 8;
  EXPECT_TRUE(start_up_warnings(c, f).empty());
  f.cores = 7;
  EXPECT_EQ(start_up_warnings(c, f),
            std::vector<std::string>{
                "4 ranks of 2 threads share 7 cores, which slows all down: set OMP_NUM_THREADS=1"});
  f.threads = 1;
  f.cores = 2;  // ranks share them in any case
  EXPECT_TRUE(start_up_warnings(c, f).empty());
  c.checkpoint.save.clear();
  ASSERT_EQ(start_up_warnings(c, f).size(), 1U);
  EXPECT_NE(start_up_warnings(c, f)[0].find("--save"), std::string::npos);
}

TEST(StartUp, OneRankNeedsNoTable) {
  TrainConfig c = config();
  c.parallel.layout = {};
  StartUpFacts f = facts();
  f.topology = {.node_of = {0}, .host_names = {"a"}};
  EXPECT_EQ(start_up_lines(c, f).size(), 5U);
  c.model.moe.capacity_factor = 1.25;
  EXPECT_EQ(start_up_lines(c, f)[5],
            "capacity factor 1.25: an expert's share is of the tokens that a rank routes together, so that "
            "other layouts drop other assignments and their losses differ");
}

TEST(StartUp, TheDispatcherIsNamedOnce) {
  const DispatcherChoice rbd{.kind = DispatcherKind::rbd, .why = "rbd: 2 nodes"};
  EXPECT_EQ(dispatcher_line(rbd, DispatcherKind::rbd), "dispatcher: rbd: 2 nodes");
  EXPECT_EQ(
      dispatcher_line(rbd, DispatcherKind::flat),
      "dispatcher: flat: another expert-parallel group found it to be the faster one; here rbd: 2 nodes");
}

TEST(StartUp, LinesOfOtherLayouts) {
  TrainConfig c = config();
  c.parallel.layout = {
      .tensor = 4, .expert = 2, .expert_tensor = true, .placement = ExpertPlacement::dp_first};
  StartUpFacts f = facts();
  f.topology.node_of = {0, 0, 0, 0, 0, 1, 1, 1};
  f.validation_windows.reset();
  const std::vector<std::string> lines = start_up_lines(c, f);
  EXPECT_EQ(lines[1],
            "layout: 2 nodes of 3 to 5 ranks, 2 threads each; tensor parallel 4, data parallel 2, expert "
            "parallel 2 (dp-first), replicas of an expert 1, experts cut over tensor parallel ranks");
  EXPECT_TRUE(lines[3].ends_with("; no validation")) << lines[3];
  c.model.moe.router.experts = 0;
  EXPECT_EQ(start_up_lines(c, f)[1].find("expert"), std::string::npos);
}

TEST(StartUp, WhatTrainingComputesTwiceIsNotEvaluated) {
  ModelConfig trained = config().model;
  trained.moe.dispatcher = DispatcherKind::automatic;
  trained.moe.overlap_chunks = 4;
  trained.recompute.layer = true;
  const ModelConfig run = model_to_run(trained);
  EXPECT_EQ(run.moe.dispatcher, DispatcherKind::flat);
  EXPECT_EQ(run.moe.overlap_chunks, 1);
  EXPECT_FALSE(run.recompute.any());
}

}  // namespace
}  // namespace xmoe
