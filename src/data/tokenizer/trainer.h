// Training of a byte-level BPE vocabulary: count the pieces of the text, then merge the most frequent
// adjacent pair of tokens again and again (Sennrich et al. 2016).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/documents/document_reader.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/string_table.h"
#include "data/tokenizer/vocabulary.h"

namespace xmoe {

struct TrainerOptions {
  std::int32_t vocab_size = 32768;
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::gpt2;
  std::vector<std::string> special_tokens = {std::string(kEndOfText)};
  // A pair seen once teaches nothing about other text.
  std::int64_t min_frequency = 2;
};

// How often each piece occurs.
class PieceCounter {
 public:
  explicit PieceCounter(const PreTokenizer& pre_tokenizer) : finder_(pre_tokenizer) {}

  void add(std::string_view text);
  void add(const PieceCounter& other);

  const StringTable& pieces() const { return pieces_; }
  const std::vector<std::int64_t>& counts() const { return counts_; }  // [pieces]

 private:
  PieceFinder finder_;
  StringTable pieces_;
  std::vector<std::int64_t> counts_;
};

// Ids: the special tokens, the 256 bytes in the order of their printed characters, then merges in the order
// they were learnt. Of pairs that are equally frequent the one with the smaller ids is merged first, so that
// the result depends on the counts alone. Smaller than vocab_size if no pair is left that is frequent enough.
Vocabulary learn_vocabulary(const PieceCounter& counter, const TrainerOptions& options);

// Counts on all threads, then learns; shows progress.
Vocabulary train_vocabulary(DocumentReader& reader, const TrainerOptions& options);

}  // namespace xmoe
