#include "train/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "train/flags.h"

namespace xmoe {
namespace {

class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("xmoe-config-" + std::to_string(getpid()) +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    for (const char* name : {"text.bin", "text.idx", "tokenizer.json"}) std::ofstream(folder_ / name) << "x";
    config_.model.layers = 4;
    config_.model.hidden = 64;
    config_.model.heads = 8;
    config_.model.seq_length = 32;
    config_.model.moe.router.experts = 16;
    config_.model.moe.router.top_k = 4;
    config_.data.sources = {{1.0, (folder_ / "text").string()}};
    config_.data.tokenizer = folder_ / "tokenizer.json";
    config_.batch.micro = 2;
    config_.batch.global = 8;
    config_.batch.train_iterations = 10;
    config_.optimizer.learning_rate = 1e-3;
    config_.parallel.layout.expert = 2;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // The flags that have a problem, in order.
  std::vector<std::string> flags(int world_size = 2) const {
    std::vector<std::string> result;
    for (const Problem& problem : validate(config_, world_size)) {
      EXPECT_FALSE(problem.message.empty());
      result.push_back(problem.flag);
    }
    return result;
  }

  using Flags = std::vector<std::string>;
  std::filesystem::path folder_;
  TrainConfig config_;
};

TEST_F(ConfigTest, GoodConfigurationHasNoProblem) {
  EXPECT_EQ(flags(2), Flags{});
  EXPECT_EQ(flags(4), Flags{});
}

TEST_F(ConfigTest, NamesWhatIsMissing) {
  EXPECT_EQ(validate(TrainConfig{}, 1).size(), 8U);
  config_ = TrainConfig{};
  EXPECT_EQ(flags(1), (Flags{"num-layers", "hidden-size", "num-attention-heads", "seq-length", "train-iters",
                             "lr", "data-path", "tokenizer"}));
}

TEST_F(ConfigTest, FindsWhatDoesNotDivide) {
  EXPECT_EQ(flags(3), (Flags{"expert-model-parallel-size", "global-batch-size"}));
  config_.parallel.layout.expert = 3;
  EXPECT_EQ(flags(3), (Flags{"expert-model-parallel-size", "global-batch-size"}));  // of 16 experts
  config_.parallel.layout.expert = 3;
  EXPECT_EQ(model_layout_problems(config_.model, config_.parallel.layout, 12).front().message,
            "3 does not divide --num-experts 16: sizes that fit this model on 12 ranks are 1, 2, 4");
  config_.parallel.layout.expert = 1;
  config_.model.kv_heads = 3;
  EXPECT_EQ(flags(), Flags{"num-query-groups"});
  config_.model.kv_heads = 2;
  config_.model.hidden = 60;
  EXPECT_EQ(flags(), Flags{"num-attention-heads"});
  config_.model.head_dim = 10;
  EXPECT_EQ(flags(), Flags{});
  config_.model.head_dim = 9;
  EXPECT_EQ(flags(), Flags{"kv-channels"});
}

TEST_F(ConfigTest, GradientsInBf16AreOfBf16) {
  config_.model.expert_gradients = DType::bf16;
  EXPECT_EQ(flags(), Flags{"main-grads-dtype"});
  config_.compute_dtype = DType::f16;
  EXPECT_EQ(flags(), Flags{"main-grads-dtype"});
  config_.compute_dtype = DType::bf16;
  EXPECT_EQ(flags(), Flags{});
  config_.model.moe.router.experts = 0;
  const Flags found = flags();
  EXPECT_NE(std::find(found.begin(), found.end(), "main-grads-dtype"), found.end());
}

TEST_F(ConfigTest, ScalesOfTheLossAreOfF16) {
  config_.loss_scale.constant = 128.0;
  EXPECT_EQ(flags(), Flags{"loss-scale"});
  config_.compute_dtype = DType::bf16;
  EXPECT_EQ(flags(), Flags{"loss-scale"});
  config_.compute_dtype = DType::f16;
  EXPECT_EQ(flags(), Flags{});
  config_.loss_scale.minimum = config_.loss_scale.initial * 2.0;
  EXPECT_EQ(flags(), Flags{"min-loss-scale"});
  config_.compute_dtype = DType::f32;  // as in Megatron, a dynamic scale's settings may stand without --fp16
  config_.loss_scale.constant = 0.0;
  EXPECT_EQ(flags(), Flags{});
}

TEST_F(ConfigTest, ChecksTheRouter) {
  RouterConfig& router = config_.model.moe.router;
  router.top_k = 17;
  EXPECT_EQ(flags(), Flags{"moe-router-topk"});
  router.top_k = 4;
  router.groups = 3;
  EXPECT_EQ(flags(), Flags{"moe-router-num-groups"});
  router.groups = 8;
  router.topk_groups = 9;
  EXPECT_EQ(flags(), Flags{"moe-router-group-topk"});
  router.topk_groups = 1;  // two experts, four wanted
  EXPECT_EQ(flags(), Flags{"moe-router-group-topk"});
  router.topk_groups = 2;
  EXPECT_EQ(flags(), Flags{});
  router.pre_softmax = true;
  router.score_function = ScoreFunction::sigmoid;
  EXPECT_EQ(flags(), Flags{"moe-router-pre-softmax"});
  router.pre_softmax = false;
  config_.model.moe.dispatcher = DispatcherKind::padded;
  EXPECT_EQ(flags(), Flags{"moe-dispatcher"});
  config_.model.moe.capacity_factor = 1.25;
  EXPECT_EQ(flags(), Flags{});
  config_.model.moe.overlap_chunks = 2;
  EXPECT_EQ(flags(), Flags{"moe-overlap-chunks"});
  config_.model.moe.overlap_chunks = 1;
  config_.model.first_k_dense = 4;
  EXPECT_EQ(flags(), Flags{"moe-first-k-dense"});
  config_.model.first_k_dense = 2;
  config_.model.moe_layer_freq = 3;
  EXPECT_EQ(flags(), Flags{"moe-layer-freq"});
  config_.model.moe_layer_freq = 2;
  EXPECT_EQ(flags(), Flags{});
}

TEST_F(ConfigTest, NamesTheTensorSizesThatFit) {
  config_.parallel.layout = {.tensor = 4, .expert = 2};
  EXPECT_EQ(flags(8), Flags{});
  config_.model.heads = 6;
  config_.model.head_dim = 10;
  config_.model.kv_heads = 2;
  const std::vector<Problem> problems = validate(config_, 12);
  ASSERT_EQ(problems.size(), 3U);
  EXPECT_EQ(problems[0].flag, "num-attention-heads");
  EXPECT_EQ(problems[0].message,
            "6 is not divisible by --tensor-model-parallel-size 4: tensor sizes that fit this model on 12 "
            "ranks are 1, 2");
  EXPECT_EQ(problems[1].flag, "num-query-groups");
  EXPECT_EQ(problems[2].flag, "global-batch-size");  // 8 is no multiple of 2 * 3 groups
  config_.model.heads = 8;
  config_.model.head_dim = 0;
  config_.model.kv_heads = 0;
  config_.model.seq_length = 30;
  EXPECT_EQ(flags(8), Flags{"seq-length"});
  config_.model.seq_length = 32;
  config_.model.vocabulary = 130;
  EXPECT_EQ(flags(8), Flags{"make-vocab-size-divisible-by"});
  config_.model.vocabulary = 128;
  config_.model.first_k_dense = 1;
  config_.model.ffn_hidden = 102;
  EXPECT_EQ(flags(8), Flags{"ffn-hidden-size"});  // 102 of experts are not cut
  config_.parallel.layout.expert_tensor = true;
  EXPECT_EQ(flags(8), (Flags{"ffn-hidden-size", "moe-ffn-hidden-size"}));
  config_.model.ffn_hidden = 104;
  config_.model.moe.shared_ffn_hidden = 102;  // shared experts are not cut, either
  EXPECT_EQ(flags(8), Flags{});
  config_.parallel.layout.tensor = 3;
  EXPECT_EQ(flags(8), (Flags{"tensor-model-parallel-size"}));
  config_.parallel.layout.tensor = 1;
  EXPECT_EQ(flags(2), Flags{"enable-expert-tensor-parallelism"});
}

TEST_F(ConfigTest, BatchesAreCutOverTensorParallelGroups) {
  config_.parallel.layout.tensor = 2;
  EXPECT_EQ(flags(8), Flags{});  // 8 = 2 * 4 groups
  EXPECT_EQ(config_.micro_batches(8), 1);
  EXPECT_EQ(config_.micro_batches(4), 2);
  config_.batch.global = 0;
  config_.data.vocab_size = 128;
  config_.resolve(8);
  EXPECT_EQ(config_.batch.global, 8);
}

TEST_F(ConfigTest, ChecksDenseModels) {
  config_.model.moe.router.experts = 0;
  EXPECT_EQ(flags(), Flags{"expert-model-parallel-size"});
  config_.parallel.layout.expert = 1;
  config_.model.moe.shared_ffn_hidden = 8;
  EXPECT_EQ(flags(), Flags{"moe-shared-expert-intermediate-size"});
}

TEST_F(ConfigTest, ChecksTheSchedule) {
  OptimizerConfig& optimizer = config_.optimizer;
  optimizer.min_learning_rate = 2e-3;
  EXPECT_EQ(flags(), Flags{"min-lr"});
  optimizer.min_learning_rate = 0.0;
  optimizer.warmup_iterations = 11;
  EXPECT_EQ(flags(), Flags{"lr-warmup-iters"});
  optimizer.warmup_iterations = 5;
  optimizer.decay_iterations = 5;  // nothing left to decay in: the minimum follows the peak
  EXPECT_EQ(flags(), Flags{});
  optimizer.decay_iterations = 4;
  EXPECT_EQ(flags(), Flags{"lr-decay-iters"});
  optimizer.decay_style = DecayStyle::constant;
  EXPECT_EQ(flags(), Flags{});
  optimizer.warmup_samples = 4;
  optimizer.decay_tokens = 3;
  EXPECT_EQ(flags(), (Flags{"lr-decay-iters", "lr-warmup-iters"}));
  config_.optimizer = {};
  config_.optimizer.learning_rate = 1e-3;
  config_.batch.train_iterations = 0;
  config_.batch.train_samples = 7;  // less than one batch
  EXPECT_EQ(flags(), Flags{"train-samples"});
}

TEST_F(ConfigTest, ATraceBeginsWithinTheTraining) {
  config_.logging.trace = folder_ / "trace.json";
  config_.logging.trace_begin = 10;
  EXPECT_EQ(flags(), Flags{});
  config_.logging.trace_begin = 11;
  EXPECT_EQ(flags(), Flags{"trace-begin"});
  config_.logging.trace.clear();
  EXPECT_EQ(flags(), Flags{});
}

TEST_F(ConfigTest, ChecksFiles) {
  std::filesystem::remove(folder_ / "text.idx");
  std::filesystem::remove(folder_ / "tokenizer.json");
  EXPECT_EQ(flags(), (Flags{"data-path", "tokenizer"}));
  config_.data.sources.clear();
  config_.data.tokenizer.clear();
  config_.data.vocab_size = 100;
  EXPECT_EQ(flags(), Flags{"data-path"});
  config_.data.sources = {{1.0, (folder_ / "none").string()}};
  EXPECT_EQ(flags(), (Flags{"data-path", "data-path"}));
}

TEST_F(ConfigTest, ChecksCheckpoints) {
  config_.checkpoint.save_interval = 5;
  config_.checkpoint.finetune = true;
  EXPECT_EQ(flags(), (Flags{"save-interval", "finetune"}));
  config_.checkpoint.save = folder_;
  config_.checkpoint.load = folder_ / "not-yet";  // the first start of a training that is to be resumed
  EXPECT_EQ(flags(), Flags{});
}

TEST_F(ConfigTest, ResolvesLengthsAndBatch) {
  config_.data.vocab_size = 130;
  config_.batch.global = 0;
  config_.batch.train_iterations = 100;
  config_.batch.train_samples = 50;
  config_.batch.train_tokens = 1000;  // 31 samples of 32
  config_.resolve(4);
  EXPECT_EQ(config_.batch.global, 8);
  EXPECT_EQ(config_.micro_batches(4), 1);
  EXPECT_EQ(config_.batch.train_iterations, 3);
  EXPECT_EQ(config_.model.vocabulary, 256);
  EXPECT_EQ(config_.model.kv_heads, 8);
  const std::string text = to_text(config_);
  config_.resolve(4);
  EXPECT_EQ(to_text(config_), text);
  EXPECT_EQ(flags(4), Flags{});
}

TEST_F(ConfigTest, KeepsALengthInTokensWhileTheSequenceIsUnknown) {
  config_.model.seq_length = 0;
  config_.batch.train_tokens = 1000;
  config_.resolve(1);
  EXPECT_EQ(config_.batch.train_tokens, 1000);
}

TEST(EvalConfig, NeedsCheckpointAndData) {
  EXPECT_EQ(validate(EvalConfig{}, 1).size(), 2U);
  EvalConfig config;
  config.load = "/";
  config.sources = {{1.0, "/no/such"}};
  config.layout.expert = 2;
  EXPECT_EQ(validate(config, 3).size(), 3U);  // .bin, .idx, ranks
}

TEST(GenerateConfig, NeedsACheckpoint) {
  EXPECT_EQ(validate(GenerateConfig{}, 1).size(), 1U);
  GenerateConfig config;
  config.load = "/no/such";
  EXPECT_EQ(validate(config, 1).size(), 1U);
  config.load = "/";
  EXPECT_TRUE(validate(config, 1).empty());
}

}  // namespace
}  // namespace xmoe
