#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "data/support/temporary_folder.h"
#include "data/tokenizer/naive_bpe.h"
#include "data/tokenizer/trainer.h"

namespace xmoe {
namespace {

// Words over a small alphabet, so that long chains of merges arise.
std::string random_words(std::uint64_t seed, std::uint64_t count, std::uint64_t letters,
                         std::uint64_t longest) {
  const Rng rng(seed, "words");
  std::string text;
  std::uint64_t counter = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t length = 1 + rng.below(counter++, longest);
    for (std::uint64_t k = 0; k < length; ++k) text += static_cast<char>('a' + rng.below(counter++, letters));
    text += ' ';
  }
  return text;
}

Tokenizer trained(PreTokenizerKind kind = PreTokenizerKind::gpt2, std::int32_t vocab_size = 600) {
  PieceCounter counter{PreTokenizer(kind)};
  counter.add(random_words(7, 4000, 4, 9));
  counter.add("\u4e2d\u6587 \u4e2d\u6587 na\u00efve na\u00efve 2024 2024 it's it's");
  TrainerOptions options;
  options.vocab_size = vocab_size;
  options.pre_tokenizer = kind;
  return Tokenizer(learn_vocabulary(counter, options));
}

std::string random_bytes(std::uint64_t seed, std::uint64_t count) {
  const Rng rng(seed, "bytes");
  std::string bytes;
  for (std::uint64_t i = 0; i < count; ++i) bytes += static_cast<char>(rng.below(i, 256));
  return bytes;
}

std::string random_unicode(std::uint64_t seed, std::uint64_t count) {
  const std::vector<std::string> characters{"a",      "b",      " ",          "\n",     "'s",     "7",
                                            "\u00e9", "\u4e2d", "\U0001f600", "\u0301", "\u3000", "\u200d"};
  const Rng rng(seed, "characters");
  std::string text;
  for (std::uint64_t i = 0; i < count; ++i) text += characters[rng.below(i, characters.size())];
  return text;
}

TEST(Tokenizer, BytesAndUnicodeComeBack) {
  for (const auto kind : {PreTokenizerKind::gpt2, PreTokenizerKind::qwen, PreTokenizerKind::llama3}) {
    const Tokenizer tokenizer = trained(kind);
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      for (const std::string& text : {random_bytes(seed, seed * 50), random_unicode(seed, seed * 40)}) {
        EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << seed;
      }
    }
  }
}

TEST(Tokenizer, EqualsNaiveBpe) {
  const Tokenizer tokenizer = trained();
  // Pieces of up to 200 bytes: both ways of merging are taken.
  for (const std::uint64_t longest : {5, 40, 200}) {
    const std::string text = random_words(longest, 60, 4, longest);
    PieceFinder finder{PreTokenizer(PreTokenizerKind::gpt2)};
    finder.start(text);
    std::vector<std::int32_t> expected;
    std::string_view piece;
    while (finder.next(piece)) {
      const auto ids = naive::encode(piece, tokenizer.vocabulary());
      expected.insert(expected.end(), ids.begin(), ids.end());
    }
    EXPECT_EQ(tokenizer.encode(text), expected) << longest;
  }
}

TEST(Tokenizer, LargeTextOnManyThreadsEqualsOneEncoder) {
  const Tokenizer tokenizer = trained();
  const std::string text = random_words(3, 120'000, 5, 9) + random_unicode(4, 50'000);
  std::vector<std::int32_t> expected;
  Encoder(tokenizer).encode(text, expected);
  EXPECT_EQ(tokenizer.encode(text), expected);
  std::vector<std::vector<std::int32_t>> results(3);
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (auto& result : results) threads.emplace_back([&] { result = tokenizer.encode(text); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Tokenizer, CacheThatOverflowsKeepsTheIds) {
  const Tokenizer tokenizer = trained();
  // More distinct words than the cache holds, then the first ones again.
  std::string text;
  for (int i = 0; i < 70'000; ++i) text += " w" + std::to_string(i * 7919);
  Encoder encoder(tokenizer);
  std::vector<std::int32_t> ids;
  encoder.encode(text, ids);
  EXPECT_EQ(tokenizer.decode(ids), text);
  std::vector<std::int32_t> again;
  encoder.encode(std::string_view(text).substr(0, 1000), again);
  EXPECT_TRUE(std::equal(again.begin(), again.end() - 1, ids.begin()));
}

TEST(Tokenizer, EmptyText) {
  const Tokenizer tokenizer = trained();
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_TRUE(tokenizer.encode("", AddedTokens::recognised).empty());
  EXPECT_EQ(tokenizer.decode({}), "");
}

TEST(Tokenizer, AddedTokensAreTextUnlessAskedFor) {
  const Tokenizer tokenizer = trained();
  const std::string text = "ab<|endoftext|> cd<|endoftext|>";
  const std::int32_t end = tokenizer.end_of_document();
  const auto as_text = tokenizer.encode(text);
  EXPECT_EQ(std::count(as_text.begin(), as_text.end(), end), 0);
  const auto recognised = tokenizer.encode(text, AddedTokens::recognised);
  EXPECT_EQ(std::count(recognised.begin(), recognised.end(), end), 2);
  EXPECT_EQ(recognised.back(), end);
  EXPECT_EQ(tokenizer.decode(recognised), text);
}

TEST(Tokenizer, TheLongestAddedTokenWins) {
  Vocabulary vocabulary = trained().vocabulary();
  for (const char* content : {"<a>", "<a><b>"}) {
    vocabulary.added.push_back({static_cast<std::int32_t>(vocabulary.tokens.size()), content, true});
    vocabulary.tokens.emplace_back(content);
  }
  const auto longest = static_cast<std::int32_t>(vocabulary.tokens.size()) - 1;
  const Tokenizer tokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer.encode("<a><b><a>", AddedTokens::recognised),
            (std::vector<std::int32_t>{longest, longest - 1}));
}

TEST(Tokenizer, ByteLengths) {
  const Tokenizer tokenizer = trained();
  const auto lengths = tokenizer.byte_lengths();
  ASSERT_EQ(static_cast<std::int32_t>(lengths.size()), tokenizer.vocab_size());
  EXPECT_EQ(lengths[static_cast<std::size_t>(tokenizer.end_of_document())], 0);
  const std::string text = random_unicode(1, 1000);
  std::int64_t bytes = 0;
  for (const std::int32_t id : tokenizer.encode(text)) bytes += lengths[static_cast<std::size_t>(id)];
  EXPECT_EQ(bytes, static_cast<std::int64_t>(text.size()));
}

TEST(Tokenizer, RefusesIdsOutsideOfTheVocabulary) {
  const Tokenizer tokenizer = trained();
  const std::vector<std::int32_t> beyond{tokenizer.vocab_size()};
  const std::vector<std::int32_t> negative{-1};
  EXPECT_THROW(static_cast<void>(tokenizer.decode(beyond)), Error);
  EXPECT_THROW(static_cast<void>(tokenizer.decode(negative)), Error);
}

TEST(Tokenizer, NeedsATokenForEveryByte) {
  Vocabulary vocabulary = trained().vocabulary();
  for (auto& token : vocabulary.tokens)
    if (token == "q") token.clear();
  EXPECT_NE(error_of([&] { const Tokenizer tokenizer(vocabulary); }).find("0x71"), std::string::npos);
}

TEST(Tokenizer, IgnoreMerges) {
  Vocabulary vocabulary = trained().vocabulary();
  vocabulary.tokens.emplace_back("zyzzyva");  // no merges lead to it
  const auto id = static_cast<std::int32_t>(vocabulary.tokens.size()) - 1;
  EXPECT_GT(Tokenizer(vocabulary).encode("zyzzyva").size(), 1U);
  vocabulary.ignore_merges = true;
  EXPECT_EQ(Tokenizer(vocabulary).encode("zyzzyva"), std::vector<std::int32_t>{id});
}

}  // namespace
}  // namespace xmoe
