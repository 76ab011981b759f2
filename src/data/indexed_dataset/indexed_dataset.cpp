#include "data/indexed_dataset/indexed_dataset.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/parallel.h"
#include "data/indexed_dataset/layout.h"

namespace xmoe {

namespace {

template <typename T>
T load(const std::byte* bytes, std::int64_t index = 0) {
  T value;
  std::memcpy(&value, bytes + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

template <typename F>
decltype(auto) with_type(TokenType type, F&& f) {
  switch (type) {
    case TokenType::u8:
      return f(std::uint8_t{});
    case TokenType::i16:
      return f(std::int16_t{});
    case TokenType::i32:
      return f(std::int32_t{});
    case TokenType::i64:
      return f(std::int64_t{});
    case TokenType::u16:
      break;
  }
  return f(std::uint16_t{});
}

}  // namespace

std::size_t size_of(TokenType type) {
  return with_type(type, [](auto zero) { return sizeof(zero); });
}

std::string_view name_of(TokenType type) {
  switch (type) {
    case TokenType::u8:
      return "u8";
    case TokenType::i16:
      return "i16";
    case TokenType::i32:
      return "i32";
    case TokenType::i64:
      return "i64";
    case TokenType::u16:
      break;
  }
  return "u16";
}

TokenType token_type_for(std::int64_t vocab_size) {
  // Megatron's bound, some way below the largest value of u16.
  constexpr std::int64_t kVocabularyOfU16 = 65500;
  return vocab_size < kVocabularyOfU16 ? TokenType::u16 : TokenType::i32;
}

std::filesystem::path bin_path(const std::filesystem::path& prefix) { return prefix.string() + ".bin"; }
std::filesystem::path idx_path(const std::filesystem::path& prefix) { return prefix.string() + ".idx"; }

IndexedDataset::IndexedDataset(const std::filesystem::path& prefix)
    : prefix_(prefix), idx_(idx_path(prefix)), bin_(bin_path(prefix)) {
  check_sizes();
  check_arrays();
}

void IndexedDataset::check_sizes() {
  const auto bytes = idx_.bytes();
  const std::string path = idx_.path().string();
  if (bytes.size() < idx::kHeaderBytes)
    fail("{}: {} bytes; expected at least the header of {}: the file is truncated", path, bytes.size(),
         idx::kHeaderBytes);
  if (std::memcmp(bytes.data(), idx::kMagic.data(), idx::kMagic.size()) != 0)
    fail(
        "{}: does not start with MMIDIDX; expected the index of a Megatron indexed dataset (xmoe data "
        "prepare writes one)",
        path);
  const auto version = load<std::uint64_t>(bytes.data() + idx::kVersionOffset);
  if (version != idx::kVersion) fail("{}: version {}; expected {}", path, version, idx::kVersion);
  const auto type = load<std::uint8_t>(bytes.data() + idx::kTypeOffset);
  constexpr std::array<std::uint8_t, 5> kTokenTypes{1, 3, 4, 5, 8};
  if (std::find(kTokenTypes.begin(), kTokenTypes.end(), type) == kTokenTypes.end())
    fail("{}: dtype {}; expected token ids: 1 (u8), 3 (i16), 4 (i32), 5 (i64) or 8 (u16)", path, type);
  type_ = static_cast<TokenType>(type);
  const auto sequences = load<std::uint64_t>(bytes.data() + idx::kSequencesOffset);
  const auto entries = load<std::uint64_t>(bytes.data() + idx::kDocumentsOffset);
  // Compared with the size of the file before they are multiplied, so that no value overflows.
  const std::uint64_t limit = bytes.size();
  const std::uint64_t expected =
      sequences > limit || entries > limit
          ? 0
          : idx::kHeaderBytes + idx::kBytesPerSequence * sequences + idx::kBytesPerDocument * entries;
  if (expected != bytes.size())
    fail(
        "{}: {} bytes; expected {} + {} x {} sequences + {} x {} document entries: the file is truncated or "
        "damaged",
        path, bytes.size(), idx::kHeaderBytes, idx::kBytesPerSequence, sequences, idx::kBytesPerDocument,
        entries);
  if (entries == 0) fail("{}: 0 document entries; expected at least the first, which is 0", path);
  sequences_ = static_cast<std::int64_t>(sequences);
  documents_ = static_cast<std::int64_t>(entries) - 1;
  lengths_ = bytes.data() + idx::kHeaderBytes;
  byte_offsets_ = lengths_ + sequences * sizeof(std::int32_t);
  document_index_ = byte_offsets_ + sequences * sizeof(std::int64_t);
}

void IndexedDataset::check_arrays() {
  const std::string path = idx_.path().string();
  const auto item = static_cast<std::int64_t>(xmoe::size_of(type_));
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < sequences_; ++i) {
    const auto length = load<std::int32_t>(lengths_, i);
    if (length < 0) fail("{}: sequence {} has length {}; expected 0 or more", path, i, length);
    const auto found = load<std::int64_t>(byte_offsets_, i);
    if (found != offset)
      fail("{}: sequence {} starts at byte {}; expected {}, where the one before it ends", path, i, found,
           offset);
    offset += item * length;
  }
  if (static_cast<std::uint64_t>(offset) != bin_.bytes().size())
    fail(
        "{}: {} bytes; expected {} ({} tokens of {} by {}): the file is truncated or belongs to another "
        "index",
        bin_.path().string(), bin_.bytes().size(), offset, offset / item, name_of(type_), path);
  std::int64_t last = 0;
  for (std::int64_t d = 0; d <= documents_; ++d) {
    const auto sequence = load<std::int64_t>(document_index_, d);
    if (d == 0 && sequence != 0) fail("{}: document 0 starts at sequence {}; expected 0", path, sequence);
    if (sequence < last || sequence > sequences_)
      fail("{}: document entry {} is sequence {}; expected {} to {}", path, d, sequence, last, sequences_);
    last = sequence;
  }
  if (last != sequences_)
    fail("{}: the last document ends at sequence {}; expected {}", path, last, sequences_);
  tokens_ = offset / item;
}

std::int64_t IndexedDataset::document_sequence(std::int64_t document) const {
  XMOE_DCHECK(document >= 0 && document <= documents_, "document {} of {}", document, documents_);
  return load<std::int64_t>(document_index_, document);
}

std::int64_t IndexedDataset::document_begin(std::int64_t document) const {
  const std::int64_t sequence = document_sequence(document);
  if (sequence == sequences_) return tokens_;
  return load<std::int64_t>(byte_offsets_, sequence) / static_cast<std::int64_t>(xmoe::size_of(type_));
}

void IndexedDataset::read(std::int64_t document, std::int64_t offset, std::span<std::int32_t> out) const {
  const std::int64_t begin = document_begin(document) + offset;
  XMOE_CHECK(offset >= 0 && begin + static_cast<std::int64_t>(out.size()) <= document_begin(document + 1),
             "tokens {} to {} of document {} with {} tokens", offset,
             offset + static_cast<std::int64_t>(out.size()), document, document_length(document));
  with_type(type_, [&]<typename T>(T) {
    const std::byte* tokens = bin_.bytes().data() + static_cast<std::size_t>(begin) * sizeof(T);
    for (std::size_t i = 0; i < out.size(); ++i) {
      T value;
      std::memcpy(&value, tokens + i * sizeof(T), sizeof(T));
      out[i] = static_cast<std::int32_t>(value);
      // An id that does not fit becomes one that no vocabulary holds.
      if constexpr (sizeof(T) > sizeof(std::int32_t))
        if (out[i] != value) out[i] = -1;
    }
  });
}

void IndexedDataset::check_token_ids(std::int64_t vocab_size) const {
  constexpr std::int64_t kGrain = std::int64_t{1} << 20;  // tokens for one thread
  std::int64_t bad = -1;                                  // the first such token
  parallel_for(tokens_, kGrain, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t found = with_type(type_, [&]<typename T>(T) -> std::int64_t {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto id = static_cast<std::int64_t>(load<T>(bin_.bytes().data(), i));
        if (id < 0 || id >= vocab_size) return i;
      }
      return -1;
    });
#pragma omp critical(xmoe_bad_token)
    if (found >= 0 && (bad < 0 || found < bad)) bad = found;
  });
  if (bad < 0) return;
  std::int64_t low = 0;
  std::int64_t high = documents_;  // document_begin(low) <= bad < document_begin(high)
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (document_begin(middle) <= bad ? low : high) = middle;
  }
  const auto id = with_type(
      type_, [&]<typename T>(T) { return static_cast<std::int64_t>(load<T>(bin_.bytes().data(), bad)); });
  fail_token_id(low, bad - document_begin(low), id, vocab_size);
}

void IndexedDataset::fail_token_id(std::int64_t document, std::int64_t offset, std::int64_t id,
                                   std::int64_t vocab_size) const {
  fail(
      "{}: document {}, offset {}: token id {}; expected 0 to {}: the data was prepared with another "
      "tokenizer, or is damaged",
      bin_.path().string(), document, offset, id, vocab_size - 1);
}

}  // namespace xmoe
