#include "data/tokenizer/trainer.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "data/support/temporary_folder.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/naive_bpe.h"
#include "data/tokenizer/vocabulary_file.h"

namespace xmoe {
namespace {

std::string random_text(std::uint64_t seed, std::uint64_t words) {
  const Rng rng(seed, "words");
  std::string text;
  std::uint64_t counter = 0;
  for (std::uint64_t i = 0; i < words; ++i) {
    const std::uint64_t length = 1 + rng.below(counter++, 7);
    for (std::uint64_t k = 0; k < length; ++k) text += static_cast<char>('a' + rng.below(counter++, 3));
    text += rng.below(counter++, 9) == 0 ? "\n" : " ";
  }
  return text;
}

PieceCounter count(std::string_view text) {
  PieceCounter counter{PreTokenizer(PreTokenizerKind::gpt2)};
  counter.add(text);
  return counter;
}

TEST(PieceCounter, CountsAndAddsUp) {
  PieceCounter a = count("to be or not to be");
  a.add(count(" be, or"));
  std::map<std::string, std::int64_t> counts;
  for (std::size_t i = 0; i < a.pieces().size(); ++i) counts[std::string(a.pieces()[i])] = a.counts()[i];
  EXPECT_EQ(counts, (std::map<std::string, std::int64_t>{
                        {"to", 1}, {" be", 3}, {" or", 2}, {" not", 1}, {" to", 1}, {",", 1}}));
}

TEST(Trainer, SmallTextByHand) {
  // "abab" x 2: (a, b) 4, (b, a) 2; then (ab, ab) 2.
  TrainerOptions options;
  options.vocab_size = 300;
  const Vocabulary vocabulary = learn_vocabulary(count("abab\nabab"), options);
  ASSERT_EQ(vocabulary.merges.size(), 2U);
  EXPECT_EQ(vocabulary.tokens.size(), 259U);  // fewer than asked for: no pair is left that occurs twice
  EXPECT_EQ(vocabulary.tokens[0], kEndOfText);
  EXPECT_EQ(vocabulary.tokens[257], "ab");
  EXPECT_EQ(vocabulary.tokens[258], "abab");
  EXPECT_EQ(vocabulary.added.size(), 1U);
}

TEST(Trainer, OverlappingPairs) {
  TrainerOptions options;
  options.vocab_size = 259;
  const Vocabulary vocabulary = learn_vocabulary(count("aaaaa\naaaaa"), options);
  EXPECT_EQ(vocabulary.tokens[257], "aa");
  EXPECT_EQ(vocabulary.tokens[258],
            "aaa");  // aa aa a: (aa, aa) and (aa, a) both twice; "a" has the smaller id
}

TEST(Trainer, EqualsNaiveTrainer) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const PieceCounter counter = count(random_text(seed, 60 + 40 * seed));
    TrainerOptions options;
    options.vocab_size = 320;
    options.min_frequency = 1 + static_cast<std::int64_t>(seed % 3);
    const Vocabulary vocabulary = learn_vocabulary(counter, options);

    std::map<std::string, std::int64_t> pieces;
    for (std::size_t i = 0; i < counter.pieces().size(); ++i)
      pieces[std::string(counter.pieces()[i])] = counter.counts()[i];
    std::map<std::string, std::int32_t> ids;
    for (std::int32_t id = 0; id < 257; ++id) ids[vocabulary.tokens[static_cast<std::size_t>(id)]] = id;
    const auto expected = naive::learn(pieces, ids, 320, options.min_frequency);
    ASSERT_EQ(vocabulary.merges.size(), expected.size()) << seed;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Merge& merge = vocabulary.merges[i];
      EXPECT_EQ(vocabulary.tokens[static_cast<std::size_t>(merge.left)], expected[i].first)
          << seed << ' ' << i;
      EXPECT_EQ(vocabulary.tokens[static_cast<std::size_t>(merge.right)], expected[i].second)
          << seed << ' ' << i;
    }
  }
}

TEST(Trainer, ThreadsAndOrderOfFilesDoNotMatter) {
  const TemporaryFolder folder;
  const auto a = folder.write("a.txt", random_text(1, 60'000));  // several chunks
  const auto b = folder.write("b.txt", random_text(2, 3'000));
  TrainerOptions options;
  options.vocab_size = 400;
  const int threads = omp_get_max_threads();
  DocumentReader forward({a, b}, {});
  omp_set_num_threads(1);
  const std::string one = to_tokenizer_json(train_vocabulary(forward, options));
  DocumentReader backward({b, a}, {});
  omp_set_num_threads(3);
  const std::string three = to_tokenizer_json(train_vocabulary(backward, options));
  omp_set_num_threads(threads);
  EXPECT_EQ(one, three);
}

TEST(Trainer, TextNeverBecomesASpecialToken) {
  TrainerOptions options;
  options.vocab_size = 300;
  options.special_tokens = {"<|endoftext|>", "abab"};
  const Vocabulary vocabulary = learn_vocabulary(count("abab\nabab"), options);
  EXPECT_EQ(vocabulary.merges.size(), 1U);  // (a, b) only
}

TEST(Trainer, RefusesImpossibleOptions) {
  TrainerOptions options;
  options.vocab_size = 256;
  EXPECT_THROW(learn_vocabulary(count("text"), options), Error);
  options.vocab_size = 300;
  options.special_tokens = {"\xff\xff"};
  EXPECT_THROW(learn_vocabulary(count("text"), options), Error);
  const TemporaryFolder folder;
  DocumentReader empty({folder.write("empty.txt", "")}, {});
  EXPECT_THROW(train_vocabulary(empty, TrainerOptions{}), Error);
}

}  // namespace
}  // namespace xmoe
