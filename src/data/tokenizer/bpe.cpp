#include "data/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <unordered_set>

#include "base/error.h"

namespace xmoe {

namespace {

// Below this many bytes a scan over all pairs beats a heap.
constexpr std::size_t kShortPiece = 48;
constexpr std::int32_t kLast = std::numeric_limits<std::int32_t>::max();  // rank of a pair without a merge

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

// Multiplication by 2^64 divided by the golden ratio spreads neighbouring ids; the upper half of the product
// is used.
std::size_t hash_of(std::uint64_t pair) { return (pair * 0x9E3779B97F4A7C15U) >> 32; }

}  // namespace

Bpe::Bpe(const Vocabulary& vocabulary) : ignore_merges_(vocabulary.ignore_merges) {
  byte_ids_.fill(-1);
  std::unordered_set<std::int32_t> special;
  for (const auto& token : vocabulary.added)
    if (token.special) special.insert(token.id);
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (token.empty() || special.contains(static_cast<std::int32_t>(id))) continue;
    if (token.size() == 1) byte_ids_[static_cast<unsigned char>(token[0])] = static_cast<std::int32_t>(id);
    if (ignore_merges_ && words_.insert(token).second) word_ids_.push_back(static_cast<std::int32_t>(id));
  }
  for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte)
    if (byte_ids_[byte] < 0)
      fail(
          "the vocabulary has no token for byte 0x{:02x}; a byte-level vocabulary has one for each of the "
          "256 bytes",
          byte);

  table_.resize(std::bit_ceil(2 * vocabulary.merges.size() + 1));
  merged_.reserve(vocabulary.merges.size());
  for (const Merge& merge : vocabulary.merges) {
    add(pair_key(merge.left, merge.right), static_cast<std::int32_t>(merged_.size()));
    merged_.push_back(merge.merged);
  }
}

void Bpe::add(std::uint64_t pair, std::int32_t rank) {
  const std::size_t mask = table_.size() - 1;
  std::size_t i = hash_of(pair) & mask;
  while (table_[i].pair != kEmpty && table_[i].pair != pair) i = (i + 1) & mask;
  table_[i] = {pair, rank};  // of a merge listed twice the later rank counts, as in Hugging Face's library
}

std::int32_t Bpe::rank_of(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_key(left, right);
  const std::size_t mask = table_.size() - 1;
  for (std::size_t i = hash_of(pair) & mask; table_[i].pair != kEmpty; i = (i + 1) & mask)
    if (table_[i].pair == pair) return table_[i].rank;
  return kLast;
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids, Scratch& scratch) const {
  if (ignore_merges_) {
    const std::int32_t word = words_.find(piece);
    if (word != StringTable::kNone) {
      ids.push_back(word_ids_[static_cast<std::size_t>(word)]);
      return;
    }
  }
  scratch.ids.clear();
  for (const char c : piece) scratch.ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  if (piece.size() <= kShortPiece) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
}

void Bpe::merge_short(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& ranks = scratch.ranks;  // ranks[i] is that of (ids[i], ids[i + 1])
  ranks.clear();
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) ranks.push_back(rank_of(ids[i], ids[i + 1]));
  while (!ranks.empty()) {
    const auto best = std::min_element(ranks.begin(), ranks.end());
    if (*best == kLast) return;
    const auto i = static_cast<std::size_t>(best - ranks.begin());
    ids[i] = merged_[static_cast<std::size_t>(*best)];
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    ranks.erase(best);
    if (i < ranks.size()) ranks[i] = rank_of(ids[i], ids[i + 1]);
    if (i > 0) ranks[i - 1] = rank_of(ids[i - 1], ids[i]);
  }
}

void Bpe::merge_long(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& ranks = scratch.ranks;
  auto& next = scratch.next;
  auto& previous = scratch.previous;
  auto& heap = scratch.heap;
  // A linked list of symbols and a heap of (rank, position); an entry whose pair has changed since is
  // skipped.
  const auto count = static_cast<std::int32_t>(ids.size());
  next.resize(ids.size());
  previous.resize(ids.size());
  ranks.assign(ids.size(), kLast);
  heap.clear();
  const auto at = [](auto& values, std::int32_t i) -> auto& { return values[static_cast<std::size_t>(i)]; };
  const auto push = [&](std::int32_t i) {
    const std::int32_t rank = at(next, i) < count ? rank_of(at(ids, i), at(ids, at(next, i))) : kLast;
    at(ranks, i) = rank;
    if (rank == kLast) return;
    heap.push_back(pair_key(rank, i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (std::int32_t i = 0; i < count; ++i) {
    at(next, i) = i + 1;
    at(previous, i) = i - 1;
  }
  for (std::int32_t i = 0; i + 1 < count; ++i) push(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const std::uint64_t top = heap.back();
    heap.pop_back();
    const auto rank = static_cast<std::int32_t>(top >> 32);
    const auto i = static_cast<std::int32_t>(top & 0xffffffffU);
    if (at(ranks, i) != rank) continue;
    const std::int32_t gone = at(next, i);
    at(ids, i) = at(merged_, rank);
    at(ranks, gone) = kLast;
    at(next, i) = at(next, gone);
    if (at(next, i) < count) at(previous, at(next, i)) = i;
    push(i);
    if (at(previous, i) >= 0) push(at(previous, i));
  }
  std::size_t kept = 0;
  for (std::int32_t i = 0; i < count; i = at(next, i)) ids[kept++] = at(ids, i);
  ids.resize(kept);
}

}  // namespace xmoe
