// Megatron's indexed dataset, PREFIX.bin and PREFIX.idx: token sequences of documents, one after the other.
// The layout is described in docs/formats.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/file.h"

namespace xmoe {

// Values are those of the file's dtype byte.
enum class TokenType : std::uint8_t { u8 = 1, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };

std::size_t size_of(TokenType type);
std::string_view name_of(TokenType type);
TokenType token_type_for(std::int64_t vocab_size);  // u16 where it holds the vocabulary, else i32

std::filesystem::path bin_path(const std::filesystem::path& prefix);
std::filesystem::path idx_path(const std::filesystem::path& prefix);

// Reads by memory map. The constructor checks the header and every invariant of the index against the size of
// the data; errors name the file, the value found and the value expected. All methods may be called by
// several threads at once.
class IndexedDataset {
 public:
  explicit IndexedDataset(const std::filesystem::path& prefix);

  std::int64_t documents() const { return documents_; }
  std::int64_t sequences() const { return sequences_; }
  std::int64_t tokens() const { return tokens_; }
  TokenType type() const { return type_; }
  const std::filesystem::path& prefix() const { return prefix_; }

  // The tokens of documents follow each other: document d holds [document_begin(d), document_begin(d + 1)) of
  // all tokens; d = documents() gives their number.
  std::int64_t document_begin(std::int64_t document) const;
  std::int64_t document_length(std::int64_t document) const {
    return document_begin(document + 1) - document_begin(document);
  }

  // tokens() [offset, offset + out.size()) of a document, without leaving it.
  void read(std::int64_t document, std::int64_t offset, std::span<std::int32_t> out) const;

  // Fails, naming document and offset, if a token id is not in [0, vocab_size). Reads all of the data.
  void check_token_ids(std::int64_t vocab_size) const;
  // The message of that failure, for readers that check what they read.
  [[noreturn]] void fail_token_id(std::int64_t document, std::int64_t offset, std::int64_t id,
                                  std::int64_t vocab_size) const;

 private:
  void check_sizes();
  void check_arrays();
  std::int64_t sequence_byte_offset(std::int64_t sequence) const;
  std::int64_t document_sequence(std::int64_t document) const;

  std::filesystem::path prefix_;
  MappedFile idx_;
  MappedFile bin_;
  TokenType type_ = TokenType::i32;
  std::int64_t sequences_ = 0;
  std::int64_t documents_ = 0;
  std::int64_t tokens_ = 0;
  const std::byte* lengths_ = nullptr;         // i32 [sequences], unaligned
  const std::byte* byte_offsets_ = nullptr;    // i64 [sequences], unaligned
  const std::byte* document_index_ = nullptr;  // i64 [documents + 1], unaligned
};

// Writes a pair document by document, each as one sequence, with memory that does not depend on their number.
// The files appear under their names when finish() has made them durable; until then, or without it, nothing
// of the old pair is lost.
class IndexedDatasetWriter {
 public:
  IndexedDatasetWriter(const std::filesystem::path& prefix, std::int64_t vocab_size);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  void append(std::span<const std::int32_t> tokens);  // to the current document
  void end_document();
  void finish();

  std::int64_t documents() const { return documents_; }
  std::int64_t tokens() const { return tokens_; }

 private:
  void write_index(const std::filesystem::path& path);

  std::filesystem::path prefix_;
  std::int64_t vocab_size_;
  TokenType type_;
  FileWriter bin_;
  FileWriter lengths_;  // i32 per document: the index needs the number of documents first
  std::int64_t documents_ = 0;
  std::int64_t tokens_ = 0;
  std::int64_t document_tokens_ = 0;
  bool finished_ = false;
};

}  // namespace xmoe
