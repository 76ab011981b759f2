#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "data/samples/evaluation_windows.h"
#include "data/samples/sample_stream.h"
#include "data/support/temporary_folder.h"

namespace xmoe {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr SplitWeights kAll{1, 0, 0};

// Documents of the given lengths whose tokens count up from `first`, so that each token tells where it came
// from.
std::shared_ptr<const IndexedDataset> make_dataset(const TemporaryFolder& folder, const char* name,
                                                   const std::vector<std::int64_t>& lengths,
                                                   std::int32_t first = 0) {
  IndexedDatasetWriter writer(folder / name, 1'000'000);
  for (const std::int64_t length : lengths) {
    Tokens tokens(static_cast<std::size_t>(length));
    std::iota(tokens.begin(), tokens.end(), first);
    first += static_cast<std::int32_t>(length);
    writer.append(tokens);
    writer.end_document();
  }
  writer.finish();
  return std::make_shared<const IndexedDataset>(folder / name);
}

std::vector<std::int64_t> random_lengths(std::uint64_t count, std::uint64_t longest) {
  const Rng rng(5, "lengths");
  std::vector<std::int64_t> lengths;
  for (std::uint64_t i = 0; i < count; ++i)
    lengths.push_back(static_cast<std::int64_t>(rng.below(i, longest + 1)));
  return lengths;
}

Tokens read(const SampleStream& stream, std::int64_t index) {
  Tokens tokens(static_cast<std::size_t>(stream.seq_length()) + 1);
  stream.read(index, tokens);
  return tokens;
}

SampleStream stream_of(std::shared_ptr<const IndexedDataset> dataset, std::int64_t seq_length,
                       std::uint64_t seed = 1) {
  return SampleStream({{1.0, std::move(dataset)}}, kAll, Split::train, {seq_length, seed, 0});
}

TEST(Split, RangesCoverAllDocumentsInOrder) {
  const SplitWeights weights{98, 2, 0};
  for (const std::int64_t documents : {0, 1, 2, 10, 49, 100, 12345}) {
    const auto train = documents_of(Split::train, weights, documents);
    const auto valid = documents_of(Split::valid, weights, documents);
    const auto test = documents_of(Split::test, weights, documents);
    EXPECT_EQ(train.begin, 0);
    EXPECT_EQ(train.end, valid.begin);
    EXPECT_EQ(valid.end, documents);
    EXPECT_EQ(test.begin, test.end);
  }
  EXPECT_EQ(documents_of(Split::train, weights, 100).end, 98);
  EXPECT_EQ(documents_of(Split::valid, {969, 30, 1}, 1000).end, 999);
  EXPECT_EQ(documents_of(Split::test, {969, 30, 1}, 1000).end, 1000);
  EXPECT_EQ(documents_of(Split::train, {0, 0, 1}, 7).end, 0);
  EXPECT_EQ(documents_of(Split::test, {0, 0, 1}, 7).end, 7);
}

TEST(SampleStream, EachTokenIsPredictedOncePerEpoch) {
  const TemporaryFolder folder;
  const auto dataset = make_dataset(folder, "a", random_lengths(60, 40));
  for (const std::int64_t seq_length : {1, 7, 64}) {
    const SampleStream stream = stream_of(dataset, seq_length);
    const std::int64_t tokens = dataset->tokens();
    // Whole epochs that are whole samples too: seq_length epochs hold `tokens` samples.
    std::vector<std::int64_t> predicted(static_cast<std::size_t>(tokens), 0);
    for (std::int64_t i = 0; i < tokens; ++i) {
      const Tokens sample = read(stream, i);
      for (std::size_t k = 1; k < sample.size(); ++k) ++predicted[static_cast<std::size_t>(sample[k])];
    }
    // Each epoch predicts each token once, but for the one at either end of the whole.
    std::int64_t others = 0;
    for (const std::int64_t count : predicted) others += std::abs(count - seq_length);
    EXPECT_LE(others, 2) << seq_length;
  }
}

TEST(SampleStream, DocumentsStayWholeWithinASample) {
  const TemporaryFolder folder;
  const auto lengths = random_lengths(40, 30);
  const auto dataset = make_dataset(folder, "a", lengths);
  std::set<std::int32_t> begins;
  std::int32_t begin = 0;
  for (const auto length : lengths) {
    begins.insert(begin);
    begin += static_cast<std::int32_t>(length);
  }
  const SampleStream stream = stream_of(dataset, 50);
  std::int64_t joints = 0;
  for (std::int64_t i = 0; i < 30; ++i) {
    const Tokens sample = read(stream, i);
    for (std::size_t k = 1; k < sample.size(); ++k) {
      if (sample[k] == sample[k - 1] + 1) continue;
      EXPECT_TRUE(begins.contains(sample[k])) << "a document begins in its middle";
      ++joints;
    }
  }
  EXPECT_GT(joints, 30) << "documents are not shuffled";
}

TEST(SampleStream, IsAFunctionOfSeedAndIndex) {
  const TemporaryFolder folder;
  const auto dataset = make_dataset(folder, "a", random_lengths(50, 40));
  const SampleStream stream = stream_of(dataset, 16);
  const SampleStream same = stream_of(dataset, 16);
  const SampleStream other = stream_of(dataset, 16, 2);
  std::int64_t different = 0;
  for (const std::int64_t i : {0, 500, 3, 1'000'000, 62, 63, 64, 1}) {
    EXPECT_EQ(read(stream, i), read(same, i)) << i;
    different += read(stream, i) != read(other, i) ? 1 : 0;
  }
  EXPECT_GT(different, 6);
  // A resumed run that has read nothing before gets the same.
  EXPECT_EQ(read(stream_of(dataset, 16), 500), read(stream, 500));
  // Samples longer than any document join others in every epoch.
  const SampleStream longer = stream_of(dataset, 64);
  std::set<Tokens> distinct;
  for (std::int64_t i = 0; i < 200; ++i) distinct.insert(read(longer, i));
  EXPECT_EQ(distinct.size(), 200U) << "epochs repeat";
}

TEST(SampleStream, DataSmallerThanASample) {
  const TemporaryFolder folder;
  const SampleStream stream = stream_of(make_dataset(folder, "a", {3, 0, 2}), 23);
  for (std::int64_t i = 0; i < 50; ++i) {
    Tokens sample = read(stream, i);
    // Ten tokens in a row hold a whole epoch of five.
    EXPECT_EQ(std::set<std::int32_t>(sample.begin(), sample.begin() + 10).size(), 5U);
  }
}

TEST(SampleStream, ThreadsReadTheSame) {
  const TemporaryFolder folder;
  const SampleStream stream({{0.3, make_dataset(folder, "a", random_lengths(30, 40))},
                             {0.7, make_dataset(folder, "b", random_lengths(50, 20), 100'000)}},
                            kAll, Split::train, {8, 3, 0});
  std::vector<Tokens> expected;
  for (std::int64_t i = 0; i < 600; ++i) expected.push_back(read(stream, i));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < expected.size(); i += t + 1)
        wrong[t] += read(stream, static_cast<std::int64_t>(i)) != expected[i] ? 1 : 0;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(SampleStream, ReadsTheDocumentsOfItsSplitOnly) {
  const TemporaryFolder folder;
  const auto dataset = make_dataset(folder, "a", std::vector<std::int64_t>(10, 10));
  const SampleStream train({{1.0, dataset}}, {8, 2, 0}, Split::train, {5, 1, 0});
  const SampleStream valid({{1.0, dataset}}, {8, 2, 0}, Split::valid, {5, 1, 0});
  for (std::int64_t i = 0; i < 40; ++i) {
    for (const auto token : read(train, i)) EXPECT_LT(token, 80);
    for (const auto token : read(valid, i)) EXPECT_GE(token, 80);
  }
  const std::string message = error_of([&] {
    SampleStream({{1.0, dataset}}, {8, 2, 0}, Split::test, {5, 1, 0});
  });
  EXPECT_NE(message.find("test split holds no tokens"), std::string::npos) << message;
}

TEST(SampleStream, NamesABadTokenId) {
  const TemporaryFolder folder;
  const auto dataset = make_dataset(folder, "a", {4, 4});
  const SampleStream stream({{1.0, dataset}}, kAll, Split::train, {7, 1, 6});
  Tokens tokens(8);
  const std::string message = error_of([&] { stream.read(0, tokens); });
  EXPECT_NE(message.find("document 1, offset 2: token id 6"), std::string::npos) << message;
}

TEST(BlendOrder, StaysWithinOneSampleOfTheWeights) {
  const std::vector<double> weights{0.3, 0.5, 0.15, 0.05};
  const BlendOrder order({3, 5, 1.5, 0.5});
  std::vector<std::int64_t> counts(weights.size(), 0);
  for (std::int64_t i = 0; i < 40'000; ++i) {  // past the first blocks
    const auto choice = order.at(i);
    EXPECT_EQ(choice.index, counts[choice.dataset]);
    ++counts[choice.dataset];
    for (std::size_t d = 0; d < weights.size(); ++d)
      ASSERT_LE(std::abs(static_cast<double>(counts[d]) - weights[d] * static_cast<double>(i + 1)),
                1.0 + 1e-6)
          << i;
  }
}

TEST(BlendOrder, RandomAccessEqualsTheSequence) {
  const BlendOrder sequence({0.7, 0.2, 0.1});
  std::vector<BlendOrder::Choice> choices;
  for (std::int64_t i = 0; i < 50'000; ++i) choices.push_back(sequence.at(i));
  const BlendOrder order({0.7, 0.2, 0.1});
  for (const std::int64_t i : {49'999, 0, 16'384, 16'383, 40'000, 1}) {
    EXPECT_EQ(order.at(i).dataset, choices[static_cast<std::size_t>(i)].dataset) << i;
    EXPECT_EQ(order.at(i).index, choices[static_cast<std::size_t>(i)].index) << i;
  }
}

TEST(EvaluationWindows, PredictEveryTokenButTheFirstOnce) {
  const TemporaryFolder folder;
  const DataBlend blend{{0.5, make_dataset(folder, "a", {4, 0, 3, 0})},
                        {0.5, make_dataset(folder, "b", {0, 5, 1}, 7)}};
  for (const std::int64_t seq_length : {1, 3, 4, 12, 20}) {
    const EvaluationWindows windows(blend, kAll, Split::train, seq_length, 0,
                                    std::vector<std::int32_t>(13, 2));
    EXPECT_EQ(windows.predicted_tokens(), 12);
    Tokens predicted;
    std::int64_t bytes = 0;
    for (std::int64_t w = 0; w < windows.count(); ++w) {
      Tokens inputs(static_cast<std::size_t>(seq_length));
      Tokens targets(static_cast<std::size_t>(seq_length));
      windows.read(w, inputs, targets);
      bytes += windows.predicted_bytes(targets);
      for (std::size_t i = 0; i < targets.size(); ++i) {
        if (targets[i] == EvaluationWindows::kIgnored) {
          EXPECT_EQ(w + 1, windows.count());
          continue;
        }
        EXPECT_EQ(targets[i], inputs[i] + 1);
        predicted.push_back(targets[i]);
      }
    }
    Tokens expected(12);
    std::iota(expected.begin(), expected.end(), 1);
    EXPECT_EQ(predicted, expected) << seq_length;
    EXPECT_EQ(bytes, 24);
  }
}

TEST(EvaluationWindows, RefusesTooLittleAndBadTokens) {
  const TemporaryFolder folder;
  const DataBlend blend{{1.0, make_dataset(folder, "a", {1, 5})}};
  EXPECT_NE(error_of([&] {
              EvaluationWindows(blend, {1, 1, 0}, Split::train, 4, 0, {});
            }).find("expected at least 2"),
            std::string::npos);
  const std::vector<std::int32_t> lengths(4, 1);
  const EvaluationWindows by_tokenizer(blend, kAll, Split::train, 8, 0, lengths);
  const EvaluationWindows by_vocabulary(blend, kAll, Split::train, 8, 4, {});
  const EvaluationWindows by_both(blend, kAll, Split::train, 8, 6, lengths);
  for (const auto* windows : {&by_tokenizer, &by_vocabulary, &by_both}) {
    Tokens inputs(8);
    Tokens targets(8);
    EXPECT_NE(error_of([&] { windows->read(0, inputs, targets); }).find("document 1, offset 3: token id 4"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace xmoe
