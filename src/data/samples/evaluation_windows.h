// A split read once from front to back, for evaluation: windows of seq_length tokens whose targets cover
// every token but the first, each exactly once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/samples/data_blend.h"

namespace xmoe {

class EvaluationWindows {
 public:
  static constexpr std::int32_t kIgnored = -1;  // target of the padding behind the last token

  // Token ids are checked against vocab_size as they are read, unless it is 0. byte_lengths
  // (Tokenizer::byte_lengths) give predicted_bytes() and bound the ids as well; may be empty. The data sets
  // of a blend follow each other whole, whatever their weights. Fails if the split holds fewer than two
  // tokens.
  EvaluationWindows(const DataBlend& blend, const SplitWeights& weights, Split split, std::int64_t seq_length,
                    std::int64_t vocab_size, std::vector<std::int32_t> byte_lengths);

  std::int64_t seq_length() const { return seq_length_; }
  std::int64_t count() const;
  std::int64_t predicted_tokens() const {
    return tokens_ - 1;
  }  // targets of all windows that are not ignored

  // inputs [seq_length], targets [seq_length]; by any thread. Padding: input 0, target kIgnored.
  void read(std::int64_t window, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const;

  // Bytes of text that the targets stand for; ends of documents stand for none. 0 without byte_lengths. Bits
  // per byte is the sum of the targets' losses over ln 2 times this.
  std::int64_t predicted_bytes(std::span<const std::int32_t> targets) const;

 private:
  struct Part {
    std::shared_ptr<const IndexedDataset> dataset;
    DocumentRange range;
    std::int64_t begin;  // its first token among those of all parts
    std::int64_t end;
  };
  void read_tokens(std::int64_t begin, std::span<std::int32_t> out) const;

  std::int64_t seq_length_;
  std::int64_t vocab_size_;  // 0: unknown
  std::vector<std::int32_t> byte_lengths_;
  std::vector<Part> parts_;
  std::int64_t tokens_ = 0;
};

}  // namespace xmoe
