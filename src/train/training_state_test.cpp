#include "train/training_state.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "data/tokenizer/trainer.h"
#include "train/checkpointing.h"

namespace xmoe {
namespace {

TrainConfig resolved(bool experts) {
  TrainConfig c;
  c.model.layers = 3;
  c.model.hidden = 64;
  c.model.heads = 4;
  c.model.seq_length = 16;
  c.model.norm = NormKind::rms_norm;
  c.model.moe.router.experts = experts ? 8 : 0;
  c.model.first_k_dense = experts ? 1 : 0;
  c.data.sources = {{1.0, "da\"ta"}};
  c.data.vocab_size = 300;
  c.batch.micro = 2;
  c.batch.train_iterations = 10;
  c.optimizer.learning_rate = 1e-3;
  c.resolve(2);
  return c;
}

using Lines = std::vector<std::string>;

TEST(TrainingState, ReadsBackWhatItWrote) {
  TrainingState state;
  state.iteration = 7;
  state.consumed_samples = 56;
  state.optimizer_steps = 6;
  state.skipped_iterations = 1;
  state.scheduled_samples = 48;
  state.loss_scaler = {.scale = 0x1p33, .growth_tracker = 5, .hysteresis_tracker = -1};
  state.data_fingerprint = "abc";
  state.config = resolved(true);
  state.config.seed = 18446744073709551615U;
  state.config.compute_dtype = DType::bf16;
  state.config.data.split = {98, 1.5, 0.5};
  const TrainingState again = training_state_from_json(to_json(state), "there");
  EXPECT_EQ(to_json(again), to_json(state));
  EXPECT_EQ(again.iteration, 7);
  EXPECT_EQ(again.optimizer_steps, 6);
  EXPECT_EQ(again.scheduled_samples, 48);
  EXPECT_EQ(again.loss_scaler, state.loss_scaler);
  EXPECT_EQ(again.config.seed, state.config.seed);
  EXPECT_EQ(again.config.compute_dtype, DType::bf16);
  EXPECT_EQ(again.config.data.split, state.config.data.split);
  EXPECT_EQ(again.config.model.vocabulary, 384);
  EXPECT_EQ(model_differences(state.config, again.config), Lines{});
}

TEST(TrainingState, APathThatIsNoTextIsSavedAllTheSame) {
  TrainingState state;
  state.config = resolved(true);
  state.config.checkpoint.save = "caf\xe9";
  EXPECT_EQ(training_state_from_json(to_json(state), "there").config.model.layers, 3);
}

TEST(TrainingState, WhatIsMissingHasItsDefault) {
  // As of a checkpoint that is older than a flag.
  TrainingState state;
  state.config = resolved(true);
  std::string text = to_json(state);
  const std::string line = "rotary-base = 10000\\n";
  ASSERT_NE(text.find(line), std::string::npos) << text;
  text.erase(text.find(line), line.size());
  EXPECT_EQ(training_state_from_json(text, "there").config.model.rotary_base, 10000.0);
}

TEST(TrainingState, WithoutAnAccountOfItsOwnTheScheduleIsAtTheSamples) {
  TrainingState state;
  state.config = resolved(true);
  state.consumed_samples = 56;
  state.scheduled_samples = 48;
  std::string text = to_json(state);
  const std::string line = "\"scheduled_samples\": 48,";
  ASSERT_NE(text.find(line), std::string::npos) << text;
  text.erase(text.find(line), line.size());
  const TrainingState again = training_state_from_json(text, "there");
  EXPECT_EQ(again.scheduled_samples, 56);
  EXPECT_FALSE(again.loss_scaler.has_value());
}

TEST(TrainingState, RefusesWhatIsNoState) {
  TrainingState state;
  state.config = resolved(true);
  const std::string good = to_json(state);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const std::string& bad : {std::string("null"), std::string("{"), replaced("\"iteration\"", "\"it\""),
                                 replaced("num-layers", "no-such-flag"), replaced("num-layers = 3\\n", ""),
                                 replaced("RMSNorm", "NoNorm")}) {
    try {
      training_state_from_json(bad, "there");
      ADD_FAILURE() << "accepted: " << bad;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find("there: the training state"), 0U) << error.what();
    }
  }
}

TEST(ModelDifferences, AreNamedAsTheFlagsAre) {
  const TrainConfig a = resolved(true);
  TrainConfig b = a;
  b.model.norm = NormKind::layer_norm;
  b.model.moe.router.top_k = 3;
  b.model.vocabulary = 512;
  b.model.tied_embeddings = false;
  EXPECT_EQ(
      model_differences(a, b),
      (Lines{"--normalization: \"RMSNorm\" in the checkpoint, \"LayerNorm\" here",
             "--untie-embeddings-and-output-weights: false in the checkpoint, true here",
             "--moe-router-topk: 2 in the checkpoint, 3 here",
             "rows of the embedding (--vocab-size or the tokenizer, --make-vocab-size-divisible-by): 384 "
             "in the checkpoint, 512 here"}));
}

TEST(ModelDifferences, DoNotCountWhatHasNoEffect) {
  const TrainConfig a = resolved(true);
  TrainConfig b = a;
  b.model.moe.dispatcher = DispatcherKind::padded;  // how it is run
  b.model.moe.capacity_factor = 1.5;
  b.model.moe.router.aux_loss_coeff = 0.1;
  b.model.init_std = 0.5;
  EXPECT_EQ(model_differences(a, b), Lines{});
  const TrainConfig dense = resolved(false);
  b = dense;
  b.model.moe.router.top_k = 4;
  b.model.moe.ffn_hidden = 17;
  b.model.first_k_dense = 2;
  EXPECT_EQ(model_differences(dense, b), Lines{});
  b.model.ffn_hidden = 17;  // counts: the layers are dense
  EXPECT_EQ(model_differences(dense, b), Lines{"--ffn-hidden-size: 256 in the checkpoint, 17 here"});
  TrainConfig experts_only = resolved(true);
  experts_only.model.first_k_dense = 0;
  b = experts_only;
  b.model.ffn_hidden = 17;
  EXPECT_EQ(model_differences(experts_only, b), Lines{});
  EXPECT_EQ(model_differences(dense, a), Lines{"--num-experts: 0 in the checkpoint, 8 here"});
}

TEST(Resume, RefusesAnotherVocabularyUnlessFinetuning) {
  OpenCheckpoint checkpoint;
  checkpoint.manifest.directory = "there";
  checkpoint.state.config = resolved(true);
  TrainConfig here = resolved(true);
  check_same_model(checkpoint, here);
  here.data.vocab_size = 301;
  EXPECT_THROW(check_same_model(checkpoint, here), Error);
  here.checkpoint.finetune = true;
  check_same_model(checkpoint, here);
  here.model.vocabulary = 512;
  EXPECT_THROW(check_same_model(checkpoint, here), Error);
}

TEST(Resume, TellsWhatChangesTheCourse) {
  TrainingState a;
  a.config = resolved(true);
  TrainingState b = a;
  EXPECT_EQ(changes_on_resume(a, b), Lines{});
  b.data_fingerprint = "other";
  b.config.seed = 5;
  b.config.data.split = {90, 10, 0};
  b.config.compute_dtype = DType::bf16;
  const Lines changes = changes_on_resume(a, b);
  ASSERT_EQ(changes.size(), 4U);
  EXPECT_EQ(changes[1], "--seed 5 is not that of the checkpoint (1234): the order of samples changes");
  EXPECT_EQ(changes[2].find("--split 90,10,0 is not that of the checkpoint (969,30,1)"), 0U) << changes[2];
  EXPECT_EQ(changes[3], "training goes on in bf16; up to the checkpoint it was in f32");
}

class SaveDirectory : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("xmoe-save-" + std::to_string(getpid()) +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string written() const { return read_text_file(folder_ / "run" / kTokenizerFile); }

  std::filesystem::path folder_;
};

TEST_F(SaveDirectory, IsCreatedWithTheTokenizer) {
  prepare_save_directory(folder_ / "run", "", false);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run" / kTokenizerFile));
  prepare_save_directory(folder_ / "run", "one", false);
  EXPECT_EQ(written(), "one");
  prepare_save_directory(folder_ / "run", "two", false);  // nothing was saved there yet
  EXPECT_EQ(written(), "two");
}

TEST_F(SaveDirectory, KeepsTheTokenizerOfItsCheckpoints) {
  prepare_save_directory(folder_ / "run", "one", false);
  EXPECT_THROW(prepare_save_directory(folder_ / "run", "two", true), Error);
  std::filesystem::create_directories(folder_ / "run" / "iter_0000003");
  std::ofstream(folder_ / "run" / "iter_0000003" / "manifest.json") << "{}";
  EXPECT_THROW(prepare_save_directory(folder_ / "run", "two", true), Error);
  EXPECT_EQ(written(), "one");
}

TEST_F(SaveDirectory, OfAnotherTrainingIsRefused) {
  std::filesystem::create_directories(folder_ / "run" / "iter_0000200");
  std::ofstream(folder_ / "run" / "iter_0000200" / "manifest.json") << "{}";
  try {
    prepare_save_directory(folder_ / "run", "", false);
    FAIL() << "its checkpoints would be replaced";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("iter_0000200"), std::string::npos) << error.what();
  }
  prepare_save_directory(folder_ / "run", "", true);
}

TEST_F(SaveDirectory, TheSameTokenizerMayBeWrittenInAnotherWay) {
  const Tokenizer tokenizer(learn_vocabulary(PieceCounter(PreTokenizer(PreTokenizerKind::gpt2)), {}));
  prepare_save_directory(folder_ / "run", tokenizer.json() + "\n\n", false);
  prepare_save_directory(folder_ / "run", tokenizer.json(), true);
  EXPECT_EQ(written(), tokenizer.json() + "\n\n");
}

TEST_F(SaveDirectory, OfAFileIsRefused) {
  std::ofstream(folder_ / "file") << "x";
  try {
    prepare_save_directory(folder_ / "file" / "run", "one", false);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--save " + (folder_ / "file" / "run").string()),
              std::string::npos);
  }
}

}  // namespace
}  // namespace xmoe
