#include "train/flags.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace xmoe {
namespace {

const std::filesystem::path kConfigs = XMOE_CONFIGS_DIR;

std::string problems_of(const FlagTable& table) {
  std::string text;
  for (const Problem& problem : table.problems()) text += problem.flag + " " + problem.message + ";";
  return text;
}

ModelConfig preset(const std::string& name) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign_file(kConfigs / "models" / name);
  EXPECT_EQ(problems_of(table), "") << name;
  config.resolve(1);
  return config.model;
}

// The published sizes, in 2^30 parameters. The activated ones are published rounded, and the embedding is not
// among them.
TEST(Presets, HaveThePapersSizes) {
  struct Case {
    const char* name;
    double total, total_digit, active;
  };
  for (const Case& c : {Case{"small.toml", 10.16, 0.01, 1.3}, Case{"medium.toml", 55.5, 0.1, 5.2},
                        Case{"large.toml", 201.7, 0.1, 11.5}, Case{"super.toml", 545.9, 0.1, 28.7}}) {
    const ModelConfig model = preset(c.name);
    const ModelConfig::Counts counts = model.parameter_counts();
    constexpr double kGibi = 1073741824.0;
    const auto embedding = static_cast<double>(model.vocabulary * model.hidden) / kGibi;
    EXPECT_NEAR(static_cast<double>(counts.total) / kGibi, c.total, c.total_digit / 2) << c.name;
    EXPECT_NEAR(static_cast<double>(counts.active) / kGibi - embedding, c.active, 0.04 * c.active) << c.name;
  }
}

TEST(Presets, OthersAreGood) {
  const ModelConfig demo = preset("demo.toml");
  EXPECT_GE(demo.moe.router.experts, 32);
  EXPECT_GE(demo.moe.router.top_k, 4);
  EXPECT_GT(demo.moe.shared_ffn_hidden, 0);
  EXPECT_FALSE(demo.moe.capacity_factor.has_value());
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign_file(kConfigs / "models/small.toml");
  table.assign_file(kConfigs / "runs/paper.toml");
  EXPECT_EQ(problems_of(table), "");
  config.resolve(256);
  EXPECT_EQ(config.batch.train_iterations, 143051);  // 3e11 / (1024 * 2048)
}

TEST(Flags, TextOfAConfigurationReadsBack) {
  TrainConfig config;
  config.model.layers = 3;
  config.model.tied_embeddings = false;
  config.model.moe.activation = Activation::swiglu;
  config.model.moe.capacity_factor = 1.25;
  config.model.moe.dispatcher = DispatcherKind::padded;
  config.data.sources = {{0.3, "a b"}, {0.7, "c\"d"}};
  config.data.split = {98, 1.5, 0.5};
  config.optimizer.learning_rate = 1.2345678901234567e-4;
  config.optimizer.warmup_fraction = 0.01;
  config.compute_dtype = DType::bf16;
  config.checkpoint.load_optimizer = false;
  config.seed = 18446744073709551615U;
  const std::string text = to_text(config);
  const TrainConfig again = train_config_from_text(text, "checkpoint");
  EXPECT_EQ(to_text(again), text);
  EXPECT_EQ(again.data.sources.size(), 2U);
  EXPECT_EQ(again.data.sources[1].prefix, "c\"d");
  EXPECT_EQ(again.optimizer.learning_rate, config.optimizer.learning_rate);
  EXPECT_EQ(again.seed, config.seed);
  EXPECT_EQ(again.compute_dtype, DType::bf16);
  EXPECT_FALSE(again.model.tied_embeddings);
  EXPECT_EQ(again.model.moe.capacity_factor, 1.25);
  EXPECT_THROW(train_config_from_text("no-such-flag = 1", "checkpoint"), Error);
}

TEST(Flags, ReadsBlendsAndSplits) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign("data-path", {"one"}, kCommandLine);
  ASSERT_EQ(config.data.sources.size(), 1U);
  EXPECT_EQ(config.data.sources[0].prefix, "one");
  table.assign("data-path", {"0.3", "a", "0.7", "b"}, kCommandLine);
  ASSERT_EQ(config.data.sources.size(), 2U);
  EXPECT_EQ(config.data.sources[1].weight, 0.7);
  table.assign("split", {"98, 2"}, kCommandLine);
  EXPECT_EQ(config.data.split, (std::array<double, 3>{98, 2, 0}));
  table.assign("split", {"8", "1", "1"}, "x.toml");
  EXPECT_EQ(problems_of(table).substr(0, 11), "split has 3");  // an array is given as one text
  table.assign("data-path", {"a", "b", "c"}, kCommandLine);
  table.assign("data-path", {"a", "b"}, kCommandLine);
  table.assign("data-path", {"0", "b"}, kCommandLine);
  for (const char* bad : {"1,2,3,4", "a", "", "-1,2", "0,0,0", "1,,2"})
    table.assign("split", {bad}, kCommandLine);
  EXPECT_EQ(table.problems().size(), 10U) << problems_of(table);
}

TEST(Flags, DispatcherHasManyNames) {
  const auto dispatcher = [](const std::vector<std::pair<std::string, std::string>>& given,
                             std::size_t problems) {
    TrainConfig config;
    FlagTable table = train_flags(config);
    for (const auto& [name, value] : given) table.assign(name, {value}, kCommandLine);
    EXPECT_EQ(table.problems().size(), problems) << problems_of(table);
    return config.model.moe.dispatcher;
  };
  EXPECT_EQ(dispatcher({}, 0), DispatcherKind::flat);
  EXPECT_EQ(dispatcher({{"use-pft", "true"}, {"use-uneven-all-to-all", "true"}}, 0), DispatcherKind::flat);
  EXPECT_EQ(dispatcher({{"moe-dispatcher", "padded"}}, 0), DispatcherKind::padded);
  EXPECT_EQ(dispatcher({{"moe-pad-expert-input-to-capacity", "true"}}, 0), DispatcherKind::padded);
  EXPECT_EQ(dispatcher({{"moe-dispatcher", "auto"}}, 0), DispatcherKind::automatic);
  // As X-MoE's scripts do, in any order.
  EXPECT_EQ(dispatcher({{"use-rbd", "true"}, {"use-pft", "true"}, {"use-uneven-all-to-all", "true"}}, 0),
            DispatcherKind::rbd);
  EXPECT_EQ(dispatcher({{"use-pft", "true"}, {"use-rbd", "true"}}, 0), DispatcherKind::rbd);
  dispatcher({{"use-rbd", "true"}, {"moe-dispatcher", "flat"}}, 1);
  dispatcher({{"use-rbd", "true"}, {"moe-pad-expert-input-to-capacity", "true"}}, 1);
  dispatcher({{"moe-dispatcher", "padded"}, {"use-pft", "true"}}, 1);
  dispatcher({{"moe-pad-expert-input-to-capacity", "true"}, {"use-uneven-all-to-all", "true"}}, 1);
  dispatcher({{"bf16", "true"}, {"fp32", "true"}}, 1);
  dispatcher({{"bf16", "true"}, {"fp16", "true"}}, 1);
  dispatcher({{"fp16", "true"}, {"fp32", "true"}}, 1);
}

TEST(Flags, WhatIsNotBuiltIsRefusedByName) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  for (const char* name : {"pipeline-model-parallel-size", "context-parallel-size"}) {
    table.assign(name, {"1"}, kCommandLine);
    EXPECT_EQ(problems_of(table), "");
  }
  table.assign("pipeline-model-parallel-size", {"2"}, kCommandLine);
  table.assign("use-tutel", {"true"}, kCommandLine);
  table.assign("use-mcore-models", {"true"}, kCommandLine);
  ASSERT_EQ(table.problems().size(), 2U);
  EXPECT_EQ(table.problems()[0].message, "'2' is not possible (not built yet): use 1 or leave the flag out");
  EXPECT_EQ(table.problems()[1].message, "is refused: another system's kernels; use --moe-dispatcher flat");
}

TEST(Flags, APrecisionOfTheCommandLineReplacesThatOfAFile) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign_file(kConfigs / "runs/paper.toml");
  EXPECT_EQ(config.compute_dtype, DType::bf16);
  table.assign("fp16", {"true"}, kCommandLine);
  EXPECT_EQ(problems_of(table), "");
  EXPECT_EQ(config.compute_dtype, DType::f16);
}

TEST(Flags, LossScalesAreMegatrons) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign_text("fp16 = true", "x.toml");
  EXPECT_EQ(config.compute_dtype, DType::f16);
  EXPECT_EQ(config.loss_scale.constant, 0.0);
  EXPECT_EQ(config.loss_scale.initial, 4294967296.0);
  EXPECT_EQ(config.loss_scale.minimum, 1.0);
  EXPECT_EQ(config.loss_scale.window, 1000);
  EXPECT_EQ(config.loss_scale.hysteresis, 2);
  table.assign_text(
      "loss-scale = 128\ninitial-loss-scale = 65536\nmin-loss-scale = 0.5\nloss-scale-window = 500\n"
      "hysteresis = 4",
      "y.toml");
  EXPECT_EQ(problems_of(table), "");
  EXPECT_EQ(config.loss_scale.constant, 128.0);
  EXPECT_EQ(config.loss_scale.initial, 65536.0);
  EXPECT_EQ(config.loss_scale.minimum, 0.5);
  EXPECT_EQ(config.loss_scale.window, 500);
  EXPECT_EQ(config.loss_scale.hysteresis, 4);
  EXPECT_EQ(to_text(train_config_from_text(to_text(config), "text")), to_text(config));
  for (const char* name : {"min-loss-scale", "initial-loss-scale", "loss-scale-window", "hysteresis"})
    table.assign(name, {"0"}, kCommandLine);
  EXPECT_EQ(table.problems().size(), 4U) << problems_of(table);
}

TEST(Flags, LayoutsAreRead) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign_text(
      "tensor-model-parallel-size = 2\nmoe-expert-parallel-size = 4\nexpert-placement = \"dp-first\"\n"
      "enable-expert-tensor-parallelism = true\nsequence-parallel = true\nuse-distributed-optimizer = true\n"
      "ranks-per-node = 4\ndistributed-timeout-minutes = 2.5\nmoe-overlap-chunks = 3",
      "x.toml");
  EXPECT_EQ(problems_of(table), "");
  const ParallelLayout& layout = config.parallel.layout;
  EXPECT_EQ(layout.tensor, 2);
  EXPECT_EQ(layout.expert, 4);
  EXPECT_EQ(layout.placement, ExpertPlacement::dp_first);
  EXPECT_TRUE(layout.expert_tensor);
  EXPECT_EQ(config.parallel.zero_stage, 1);
  EXPECT_EQ(config.parallel.ranks_per_node, 4);
  EXPECT_EQ(config.parallel.timeout_minutes, 2.5);
  EXPECT_EQ(config.model.moe.overlap_chunks, 3);
  EXPECT_EQ(to_text(train_config_from_text(to_text(config), "text")), to_text(config));
  for (const Flag& flag : table.flags()) {
    if (flag.group != "Parallelism") continue;
    EXPECT_EQ(flag.role, FlagRole::run) << flag.names.front();
  }
  table.assign("zero-stage", {"2"}, kCommandLine);
  EXPECT_EQ(table.problems().size(), 1U);
}

// The modules and the granularity that settings come to: "" for none, and "!" for a problem.
std::string recomputed(const std::vector<std::pair<std::string, std::string>>& given) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  for (const auto& [name, value] : given) table.assign(name, {value}, kCommandLine);
  const RecomputeConfig& r = config.model.recompute;
  return std::string(r.attention ? "a" : "") + (r.moe ? "m" : "") + (r.mlp ? "d" : "") +
         (r.layer ? "L" : "") + (table.problems().empty() ? "" : "!");
}

TEST(Flags, RecomputationHasManyNames) {
  EXPECT_EQ(recomputed({}), "");
  EXPECT_EQ(recomputed({{"recompute-granularity", "full"}}), "L");
  EXPECT_EQ(recomputed({{"checkpoint-activations", "true"}, {"deepspeed-activation-checkpointing", "true"}}),
            "L");
  EXPECT_EQ(recomputed({{"recompute-activations", "true"}}), "a");
  EXPECT_EQ(recomputed({{"recompute-granularity", "selective"}}), "a");
  for (const bool modules_first : {false, true}) {
    std::vector<std::pair<std::string, std::string>> given = {{"recompute-granularity", "selective"},
                                                              {"recompute-modules", "moe,mlp,norm"}};
    if (modules_first) std::swap(given[0], given[1]);
    EXPECT_EQ(recomputed(given), "md");
  }
  // A list of what is never kept is a list: nothing comes in its place, in either order.
  EXPECT_EQ(recomputed({{"recompute-granularity", "selective"}, {"recompute-modules", "norm"}}), "");
  EXPECT_EQ(recomputed({{"recompute-modules", "norm"}, {"recompute-granularity", "selective"}}), "");
  EXPECT_EQ(recomputed({{"recompute-activations", "true"}, {"checkpoint-activations", "true"}}), "L!");
  EXPECT_EQ(recomputed({{"recompute-modules", "core_attn"}}), "a");
  EXPECT_EQ(recomputed({{"recompute-modules", "router"}}), "!");
  EXPECT_EQ(recomputed({{"recompute-granularity", "some"}}), "!");
  EXPECT_EQ(recomputed({{"recompute-modules", "moe"}, {"recompute-granularity", "full"}}), "L!");
  TrainConfig config;
  config.model.recompute = {.attention = true, .mlp = false, .moe = true, .layer = false};
  const TrainConfig again = train_config_from_text(to_text(config), "text");
  EXPECT_TRUE(again.model.recompute.attention && again.model.recompute.moe);
  EXPECT_FALSE(again.model.recompute.mlp || again.model.recompute.layer);
}

// As Megatron's scripts give them.
TEST(Flags, WholeLayersAreComputedAgainOneByOne) {
  EXPECT_EQ(recomputed({{"recompute-granularity", "full"},
                        {"recompute-method", "uniform"},
                        {"recompute-num-layers", "1"},
                        {"overlap-grad-reduce", "true"},
                        {"overlap-param-gather", "true"}}),
            "L");
  EXPECT_EQ(recomputed({{"recompute-granularity", "full"}, {"recompute-method", "block"}}), "L!");
  EXPECT_EQ(recomputed({{"recompute-granularity", "full"}, {"recompute-num-layers", "2"}}), "L!");
  EXPECT_EQ(recomputed({{"recompute-granularity", "selective"}, {"recompute-method", "uniform"}}), "a!");
}

TEST(Flags, ExpertTensorSizeIsOneOrTheTensorSize) {
  // Whether experts are cut, and "!" for each problem.
  const auto cut = [](std::vector<std::pair<std::string, std::string>> given) {
    TrainConfig config;
    FlagTable table = train_flags(config);
    given.emplace_back("tensor-model-parallel-size", "2");
    for (const auto& [name, value] : given) table.assign(name, {value}, kCommandLine);
    const std::size_t problems = table.problems_with(layout_problems(config.parallel, 8)).size();
    return (config.parallel.layout.expert_tensor ? "cut" : "whole") + std::string(problems, '!');
  };
  EXPECT_EQ(cut({}), "whole");
  EXPECT_EQ(cut({{"expert-tensor-parallel-size", "1"}}), "whole");
  EXPECT_EQ(cut({{"expert-tensor-parallel-size", "2"}}), "cut");
  EXPECT_EQ(cut({{"expert-tensor-parallel-size", "2"}, {"enable-expert-tensor-parallelism", "true"}}), "cut");
  EXPECT_EQ(cut({{"expert-tensor-parallel-size", "4"}}), "cut!");
  EXPECT_EQ(cut({{"expert-tensor-parallel-size", "0"}}), "whole!");
  EXPECT_EQ(cut({{"expert-tensor-parallel-size", "two"}}), "whole!");
  EXPECT_TRUE(cut({{"expert-tensor-parallel-size", "1"}, {"enable-expert-tensor-parallelism", "true"}})
                  .ends_with('!'));
  EXPECT_TRUE(cut({{"enable-expert-tensor-parallelism", "true"}, {"expert-tensor-parallel-size", "1"}})
                  .ends_with('!'));
}

TEST(Flags, CapacityCanBeTakenBack) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign("moe-train-capacity-factor", {"1.25"}, kCommandLine);
  EXPECT_EQ(config.model.moe.capacity_factor, 1.25);
  table.assign("disable-moe-token-dropping", {"true"}, kCommandLine);
  EXPECT_FALSE(config.model.moe.capacity_factor.has_value());
  EXPECT_EQ(problems_of(table), "");
}

}  // namespace
}  // namespace xmoe
