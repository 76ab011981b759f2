#include "data/tokenizer/trainer.h"

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <queue>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "data/tokenizer/byte_level.h"

namespace xmoe {

namespace {

// Text that is read before the threads start on it: some chunks for each of many threads.
constexpr std::size_t kBatchBytes = std::size_t{64} << 20;
// Files as small as a few bytes are not to exceed the number of maps that a process may hold (65,530 on
// Linux).
constexpr std::size_t kTrainingChunks = std::size_t{1} << 14;

using Pair = std::uint64_t;  // ids of the left (upper half) and right token

Pair pair_of(std::int32_t left, std::int32_t right) {
  return (static_cast<Pair>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}

struct PairHash {
  std::size_t operator()(Pair pair) const { return (pair * 0x9E3779B97F4A7C15U) >> 20; }
};

struct PairInfo {
  std::int64_t count = 0;
  std::vector<std::int32_t> words;  // where it occurs or did; may list a word twice
};

struct Candidate {
  std::int64_t count;
  Pair pair;
  // Order of a heap with the best at the top: the most frequent, of equals the smaller ids.
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

class Learner {
 public:
  Learner(const PieceCounter& counter, const TrainerOptions& options)
      : counts_(counter.counts()), options_(options) {
    add_base_tokens();
    words_.reserve(counter.pieces().size());
    for (std::size_t i = 0; i < counter.pieces().size(); ++i) {
      auto& word = words_.emplace_back();
      for (const char c : counter.pieces()[i]) word.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    }
  }

  Vocabulary learn() {
    for (std::size_t i = 0; i < words_.size(); ++i) count_pairs(static_cast<std::int32_t>(i), +1);
    for (const auto& [pair, info] : pairs_) heap_.push({info.count, pair});
    Progress progress("learning merges", options_.vocab_size, "tokens");
    while (static_cast<std::int32_t>(vocabulary_.tokens.size()) < options_.vocab_size && !heap_.empty()) {
      const Candidate best = heap_.top();
      heap_.pop();
      // Counts fall without the heap being told: an entry that is out of date goes back with its true count.
      const std::int64_t count = pairs_.at(best.pair).count;
      if (count != best.count) {
        if (count > 0) heap_.push({count, best.pair});
        continue;
      }
      if (count < std::max<std::int64_t>(1, options_.min_frequency)) break;
      merge(best.pair);
      progress.update(static_cast<std::int64_t>(vocabulary_.tokens.size()));
    }
    return std::move(vocabulary_);
  }

 private:
  void add_base_tokens() {
    vocabulary_.pre_tokenizer = options_.pre_tokenizer;
    for (const auto& content : options_.special_tokens) {
      vocabulary_.added.push_back({add_token(content), content, true});
    }
    std::array<int, 256> bytes{};
    std::iota(bytes.begin(), bytes.end(), 0);
    const auto& printed = byte_level_code_points();
    std::sort(bytes.begin(), bytes.end(), [&](int a, int b) {
      return printed[static_cast<std::size_t>(a)] < printed[static_cast<std::size_t>(b)];
    });
    for (const int byte : bytes)
      byte_ids_[static_cast<std::size_t>(byte)] = add_token(std::string(1, static_cast<char>(byte)));
  }

  std::int32_t add_token(std::string bytes) {
    const auto id = static_cast<std::int32_t>(vocabulary_.tokens.size());
    ids_.emplace(bytes, id);
    vocabulary_.tokens.push_back(std::move(bytes));
    return id;
  }

  void count_pairs(std::int32_t number, int sign) {
    const auto& word = words_[static_cast<std::size_t>(number)];
    const std::int64_t change = sign * counts_[static_cast<std::size_t>(number)];
    for (std::size_t i = 0; i + 1 < word.size(); ++i) {
      auto& info = pairs_[pair_of(word[i], word[i + 1])];
      info.count += change;
      if (sign > 0 && (info.words.empty() || info.words.back() != number)) info.words.push_back(number);
    }
  }

  void merge(Pair pair) {
    const auto left = static_cast<std::int32_t>(pair >> 32);
    const auto right = static_cast<std::int32_t>(pair & 0xffffffffU);
    std::string bytes = vocabulary_.tokens[static_cast<std::size_t>(left)] +
                        vocabulary_.tokens[static_cast<std::size_t>(right)];
    // Two ways may lead to the same token.
    const auto existing = ids_.find(bytes);
    if (existing != ids_.end() &&
        static_cast<std::size_t>(existing->second) < options_.special_tokens.size()) {
      pairs_.at(pair) = {};  // text must never become a special token
      return;
    }
    const std::int32_t merged = existing != ids_.end() ? existing->second : add_token(std::move(bytes));
    vocabulary_.merges.push_back({left, right, merged});
    grown_.clear();
    const std::vector<std::int32_t> affected = std::exchange(pairs_.at(pair).words, {});
    for (const std::int32_t word : affected) merge_in_word(word, left, right, merged);
    pairs_.at(pair).count = 0;
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (const Pair grown : grown_) heap_.push({pairs_.at(grown).count, grown});
  }

  // Replaces every occurrence in one word, from the left, and corrects the counts around each.
  void merge_in_word(std::int32_t number, std::int32_t left, std::int32_t right, std::int32_t merged) {
    auto& word = words_[static_cast<std::size_t>(number)];
    const std::int64_t count = counts_[static_cast<std::size_t>(number)];
    std::size_t kept = 0;
    for (std::size_t i = 0; i < word.size();) {
      if (i + 1 == word.size() || word[i] != left || word[i + 1] != right) {
        word[kept++] = word[i++];
        continue;
      }
      if (kept > 0) {
        pairs_[pair_of(word[kept - 1], left)].count -= count;
        grow(pair_of(word[kept - 1], merged), count, number);
      }
      if (i + 2 < word.size()) {
        pairs_[pair_of(right, word[i + 2])].count -= count;
        grow(pair_of(merged, word[i + 2]), count, number);
      }
      word[kept++] = merged;
      i += 2;
    }
    word.resize(kept);
  }

  void grow(Pair pair, std::int64_t count, std::int32_t word) {
    auto& info = pairs_[pair];
    info.count += count;
    if (info.words.empty() || info.words.back() != word) info.words.push_back(word);
    grown_.push_back(pair);
  }

  const std::vector<std::int64_t>& counts_;
  const TrainerOptions& options_;
  Vocabulary vocabulary_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<std::vector<std::int32_t>> words_;
  std::unordered_map<Pair, PairInfo, PairHash> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<Pair> grown_;  // pairs of one merge whose counts rose
};

void check_options(const TrainerOptions& options) {
  const auto least = static_cast<std::int32_t>(256 + options.special_tokens.size());
  if (options.vocab_size < least)
    fail("--vocab-size is {}; expected at least {}: 256 bytes and {} special tokens", options.vocab_size,
         least, options.special_tokens.size());
  for (const auto& content : options.special_tokens)
    if (content.size() < 2 || valid_utf8_prefix(content) != content.size())
      fail("special token \"{}\": expected at least two bytes of UTF-8", content);
}

}  // namespace

void PieceCounter::add(std::string_view text) {
  finder_.start(text);
  std::string_view piece;
  while (finder_.next(piece)) {
    const auto [number, is_new] = pieces_.insert(piece);
    if (is_new) counts_.push_back(0);
    ++counts_[static_cast<std::size_t>(number)];
  }
}

void PieceCounter::add(const PieceCounter& other) {
  for (std::size_t i = 0; i < other.pieces_.size(); ++i) {
    const auto [number, is_new] = pieces_.insert(other.pieces_[i]);
    if (is_new) counts_.push_back(0);
    counts_[static_cast<std::size_t>(number)] += other.counts_[i];
  }
}

Vocabulary learn_vocabulary(const PieceCounter& counter, const TrainerOptions& options) {
  check_options(options);
  return Learner(counter, options).learn();
}

Vocabulary train_vocabulary(DocumentReader& reader, const TrainerOptions& options) {
  check_options(options);
  const PreTokenizer pre_tokenizer(options.pre_tokenizer);
  std::vector<PieceCounter> counters;
  counters.reserve(static_cast<std::size_t>(thread_count()));
  for (int thread = 0; thread < thread_count(); ++thread) counters.emplace_back(pre_tokenizer);
  {
    constexpr double kMegabyte = 1e6;
    Progress progress("counting words", reader.total_bytes(), "MB", kMegabyte);
    std::vector<DocumentChunk> batch;
    for (bool more = true; more;) {
      batch.clear();
      std::size_t bytes = 0;
      DocumentChunk chunk;
      while (bytes < kBatchBytes && batch.size() < kTrainingChunks && (more = reader.next(chunk))) {
        bytes += chunk.raw.size();
        batch.push_back(chunk);
      }
      parallel_tasks(static_cast<std::int64_t>(batch.size()), [&](std::int64_t task, int thread) {
        std::string storage;
        counters[static_cast<std::size_t>(thread)].add(
            reader.text_of(batch[static_cast<std::size_t>(task)], storage));
      });
      progress.update(reader.bytes_read());
    }
  }
  for (std::size_t i = 1; i < counters.size(); ++i) counters[0].add(counters[i]);
  if (counters[0].pieces().size() == 0) fail("the input holds no text to train a tokenizer on");
  return learn_vocabulary(counters[0], options);
}

}  // namespace xmoe
