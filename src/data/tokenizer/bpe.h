// Byte-pair encoding of one piece (Sennrich et al. 2016, on bytes as in GPT-2): starting from single bytes,
// the adjacent pair of the lowest rank is merged, the leftmost first, until no pair has a merge.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/string_table.h"
#include "data/tokenizer/vocabulary.h"

namespace xmoe {

class Bpe {
 public:
  static constexpr std::int32_t kNoMerge = -1;

  // Scratch memory of encode(); one per thread.
  struct Scratch {
    std::vector<std::int32_t> ids, ranks, next, previous;
    std::vector<std::uint64_t> heap;
  };

  // Fails if one of the 256 bytes has no token.
  explicit Bpe(const Vocabulary& vocabulary);

  // Appends the ids of `piece`.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids, Scratch& scratch) const;

 private:
  struct Entry {
    std::uint64_t pair = kEmpty;
    std::int32_t rank = kNoMerge;
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  std::int32_t rank_of(std::int32_t left, std::int32_t right) const;
  void add(std::uint64_t pair, std::int32_t rank);
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;

  std::array<std::int32_t, 256> byte_ids_{};
  std::vector<Entry> table_;          // pair -> rank; open addressing, the size is a power of two
  std::vector<std::int32_t> merged_;  // by rank
  bool ignore_merges_;
  StringTable words_;                   // with ignore_merges: the tokens ...
  std::vector<std::int32_t> word_ids_;  // ... and their ids
};

}  // namespace xmoe
