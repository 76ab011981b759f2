// The way of a text from the command line: a tokenizer is trained, data prepared and inspected.
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "cli/data_command.h"
#include "cli/tokenizer_command.h"
#include "data/indexed_dataset/indexed_dataset.h"
#include "data/support/temporary_folder.h"
#include "data/tokenizer/tokenizer.h"

namespace xmoe {
namespace {

// Standard output of a command.
std::string run(std::vector<std::string> arguments) {
  CLI::App app;
  int exit_code = 0;
  add_tokenizer_command(app, exit_code);
  add_data_command(app, exit_code);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  testing::internal::CaptureStdout();
  try {
    app.parse(arguments);
  } catch (...) {
    testing::internal::GetCapturedStdout();
    throw;
  }
  EXPECT_EQ(exit_code, 0);
  return testing::internal::GetCapturedStdout();
}

TEST(DataCommands, FromTextToAnInspectedDataset) {
  const TemporaryFolder folder;
  const std::string path =
      folder.write("a.txt", "the cat sat\non the mat\n\nthe cat sat\non the hat\n").string();
  const std::string tokenizer = (folder / "new" / "tokenizer.json").string();
  const std::string prefix = (folder / "out" / "a").string();

  run({"tokenizer", "train", "--input", path, "--vocab-size", "270", "--output", tokenizer, "--pre-tokenizer",
       "llama3"});
  EXPECT_EQ(Tokenizer::load(tokenizer).vocabulary().pre_tokenizer, PreTokenizerKind::llama3);

  const std::string ids = run({"tokenizer", "encode", "--tokenizer", tokenizer, "--input", path});
  const std::string ids_file = folder.write("ids.txt", ids).string();
  EXPECT_EQ(run({"tokenizer", "decode", "--tokenizer", tokenizer, "--input", ids_file}),
            read_text_file(path));
  const std::string marked = folder.write("marked.txt", "the<|endoftext|>").string();
  EXPECT_TRUE(run({"tokenizer", "encode", "--tokenizer", tokenizer, "--input", marked, "--added-tokens"})
                  .ends_with(" 0\n"));

  run({"data", "prepare", "--input", path, "--tokenizer", tokenizer, "--output-prefix", prefix, "--workers",
       "2"});
  EXPECT_EQ(IndexedDataset(prefix).documents(), 1);
  run({"data", "prepare", "--input", path, "--tokenizer", tokenizer, "--output-prefix", prefix,
       "--split-documents", "blank-line"});
  EXPECT_EQ(IndexedDataset(prefix).documents(), 2);
  for (const std::string& given : {prefix, prefix + ".bin", prefix + ".idx"}) {
    const std::string shown = run({"data", "inspect", given, "--tokenizer", tokenizer});
    EXPECT_NE(shown.find("the cat sat\\non the hat<|endoftext|>"), std::string::npos) << shown;
  }
}

TEST(DataCommands, MistakesAreNamed) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a.txt", "text").string();
  const std::string tokenizer = (folder / "tokenizer.json").string();
  EXPECT_THROW(run({"tokenizer"}), CLI::ParseError);
  EXPECT_THROW(run({"tokenizer", "train", "--input", path}), CLI::ParseError);
  EXPECT_THROW(run({"tokenizer", "train", "--input", path, "--vocab-size", "300", "--output", tokenizer,
                    "--pre-tokenizer", "x"}),
               CLI::ParseError);
  EXPECT_NE(error_of([&] {
              run({"tokenizer", "train", "--input", path, "--vocab-size", "100", "--output", tokenizer});
            }).find("--vocab-size is 100"),
            std::string::npos);
  run({"tokenizer", "train", "--input", path, "--vocab-size", "257", "--output", tokenizer});
  const std::string empty = folder.write("empty.txt", "").string();
  EXPECT_NE(error_of([&] {
              run({"data", "prepare", "--input", empty, "--tokenizer", tokenizer, "--output-prefix",
                   (folder / "a").string()});
            }).find("no documents"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.bin.tmp"));
  const std::string words = folder.write("words.txt", "1 two").string();
  EXPECT_NE(error_of([&] {
              run({"tokenizer", "decode", "--tokenizer", tokenizer, "--input", words});
            }).find("\"two\""),
            std::string::npos);
  const std::string beyond = folder.write("beyond.txt", "257").string();
  EXPECT_NE(error_of([&] {
              run({"tokenizer", "decode", "--tokenizer", tokenizer, "--input", beyond});
            }).find("257"),
            std::string::npos);
}

}  // namespace
}  // namespace xmoe
