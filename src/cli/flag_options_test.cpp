#include "cli/flag_options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "cli/config_report.h"
#include "train/flags.h"

namespace xmoe {
namespace {

class FlagOptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("xmoe-options-" + std::to_string(getpid()) +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }

  // What `xmoe train ARGUMENTS` makes of its arguments.
  struct Result {
    TrainConfig config;
    std::vector<std::string> problems;
  };
  static Result parse(std::vector<std::string> arguments) {
    Result result;
    CLI::App app("test");
    CLI::App* command = app.add_subcommand("train", "");
    FlagOptions options(*command, train_flags(result.config));
    std::vector<const char*> argv = {"xmoe", "train"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    app.parse(static_cast<int>(argv.size()), argv.data());
    options.apply();
    for (const Problem& problem : options.table().problems())
      result.problems.push_back(problem.flag + ": " + problem.message);
    return result;
  }

  using Texts = std::vector<std::string>;
  std::filesystem::path folder_;
};

TEST_F(FlagOptionsTest, ReadsTheCommandLine) {
  const Result result = parse({"--num-layers",
                               "4",
                               "--topk=6",
                               "--moe-expert-parallel-size",
                               "2",
                               "--swiglu",
                               "--data-path",
                               "0.3",
                               "a",
                               "0.7",
                               "b",
                               "--split",
                               "98,2,0",
                               "--lr",
                               "1.2e-4",
                               "--use-pft",
                               "--use-uneven-all-to-all",
                               "--bf16",
                               "--num-layers",
                               "5"});
  EXPECT_EQ(result.problems, Texts{});
  EXPECT_EQ(result.config.model.layers, 5);  // the last one wins
  EXPECT_EQ(result.config.model.moe.router.top_k, 6);
  EXPECT_EQ(result.config.parallel.layout.expert, 2);
  EXPECT_EQ(result.config.model.moe.activation, Activation::swiglu);
  EXPECT_EQ(result.config.data.sources.size(), 2U);
  EXPECT_EQ(result.config.optimizer.learning_rate, 1.2e-4);
  EXPECT_EQ(result.config.compute_dtype, DType::bf16);
}

TEST_F(FlagOptionsTest, LastOccurrenceOfAListWins) {
  const Result result = parse({"--data-path", "0.3", "a", "0.7", "b", "--lr", "1", "--data-path", "c"});
  EXPECT_EQ(result.problems, Texts{});
  ASSERT_EQ(result.config.data.sources.size(), 1U);
  EXPECT_EQ(result.config.data.sources[0].prefix, "c");
  EXPECT_EQ(parse({"--data-path", "c", "--data-path", "0.3", "a", "0.7", "b"}).config.data.sources.size(),
            2U);
}

TEST_F(FlagOptionsTest, LaterFilesAndTheCommandLineWin) {
  const std::string a = file("a.toml", "[model]\nnum-layers = 2\nhidden-size = 32\nlr = 1\nswiglu = true\n");
  const std::string b = file("b.toml", "hidden_size = 64\nlr = 2\n");
  const Result result = parse({"--lr", "3", "--config", a, b, "--swiglu=false"});
  EXPECT_EQ(result.problems, Texts{});
  EXPECT_EQ(result.config.model.layers, 2);
  EXPECT_EQ(result.config.model.hidden, 64);
  EXPECT_EQ(result.config.optimizer.learning_rate, 3.0);
  EXPECT_EQ(result.config.model.moe.activation, Activation::gelu);
  EXPECT_EQ(parse({"--config", b, "--config", a}).config.model.hidden, 32);
}

TEST_F(FlagOptionsTest, ListsEveryMistake) {
  const std::string a = file("a.toml", "hiden-size = 32\n");
  const Result result = parse({"--num-layer", "4", "stray", "--lr", "fast", "--config", a,
                               "--pipeline-model-parallel-size", "2", "--use-rbdd=1", "--seq-length", "-5"});
  EXPECT_EQ(
      result.problems,
      (Texts{
          "hiden-size: is not known: did you mean --hidden-size? (" + a + ")",
          "seq-length: -5 is out of range: expected at least 1",
          "lr: 'fast' is not a number",
          "pipeline-model-parallel-size: '2' is not possible (not built yet): use 1 or leave the flag out",
          "num-layer: is not known: did you mean --num-layers?",
          "use-rbdd: is not known: did you mean --use-rbd?",
      }));
  EXPECT_EQ(parse({"stray"}).problems, Texts{"stray: is not expected: values stand behind a --flag"});
}

TEST_F(FlagOptionsTest, NeedsReadableFiles) {
  EXPECT_THROW(parse({"--config", (folder_ / "none.toml").string()}), Error);
  EXPECT_THROW(parse({"--config", file("bad.toml", "lr 1\n")}), Error);
  EXPECT_THROW(parse({"--lr"}), CLI::ParseError);
}

TEST_F(FlagOptionsTest, PrintedConfigurationReadsBack) {
  Result first = parse({"--num-layers",
                        "3",
                        "--hidden-size",
                        "48",
                        "--num-attention-heads",
                        "4",
                        "--seq-length",
                        "64",
                        "--vocab-size",
                        "1000",
                        "--num-experts",
                        "8",
                        "--train-samples",
                        "100",
                        "--global-batch-size",
                        "10",
                        "--lr",
                        "1e-3",
                        "--data-path",
                        "0.3",
                        "a",
                        "0.7",
                        "b#c",
                        "--moe-expert-capacity-factor",
                        "1.25"});
  first.config.resolve(2);
  const std::string report = config_report(first.config, 2, {{"save", "is\nmissing"}});
  EXPECT_NE(report.find("# Parameters, total:"), std::string::npos);
  EXPECT_NE(report.find("# Vocabulary, padded:  1024"), std::string::npos);
  EXPECT_NE(report.find("# To do before training: --save is\n# missing"), std::string::npos);

  Result second = parse({"--config", file("printed.toml", report)});
  EXPECT_EQ(second.problems, Texts{});
  EXPECT_EQ(second.config.batch.train_iterations, 10);
  second.config.resolve(2);
  EXPECT_EQ(config_report(second.config, 2, {}), config_report(first.config, 2, {}));
}

}  // namespace
}  // namespace xmoe
