#include "train/vocabulary.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace xmoe {
namespace {

// GPT-2's byte-level alphabet as a vocabulary without merges.
std::string byte_vocabulary() {
  std::string vocab;
  int id = 0;
  int extra = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    vocab += fmt::format("{}\"\\u{:04x}\": {}", id == 0 ? "" : ", ", itself ? byte : 256 + extra, id);
    if (!itself) ++extra;
    ++id;
  }
  return "{" + vocab + "}";
}

TEST(Vocabulary, ComesFromTheTokenizer) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("xmoe-vocabulary-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "vocab.json", byte_vocabulary());
  write_file_atomically(folder / "merges.txt", "#version: 0.2\n");

  TrainConfig config;
  config.data.tokenizer = folder;
  resolve_vocabulary(config);
  EXPECT_EQ(config.data.vocab_size, 256);
  config.data.vocab_size = 300;  // room for more
  resolve_vocabulary(config);
  EXPECT_EQ(config.data.vocab_size, 300);
  config.data.vocab_size = 255;
  EXPECT_THROW(resolve_vocabulary(config), Error);

  config.data.tokenizer = folder / "none";
  resolve_vocabulary(config);
  EXPECT_EQ(config.data.vocab_size, 255);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace xmoe
