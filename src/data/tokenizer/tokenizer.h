// Byte-level BPE tokenizer: any bytes in, token ids out, and the same bytes back. Immutable; all methods may
// be called by several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/vocabulary.h"

namespace xmoe {

// Whether the contents of added tokens ("<|endoftext|>") that occur in a text become those tokens. `as_text`,
// the default, is the safe choice for text from elsewhere, which could otherwise end documents where it
// likes.
enum class AddedTokens { as_text, recognised };

class Tokenizer {
 public:
  explicit Tokenizer(Vocabulary vocabulary);

  // A Hugging Face tokenizer.json, GPT-2's vocab.json with merges.txt beside it, or a folder that holds
  // either.
  static Tokenizer load(const std::filesystem::path& path);
  std::string json() const;  // the text of a tokenizer.json
  void save(const std::filesystem::path& path) const;

  // On all threads when the text is large; use an Encoder per thread where there are many small texts.
  std::vector<std::int32_t> encode(std::string_view text, AddedTokens added = AddedTokens::as_text) const;
  std::string decode(std::span<const std::int32_t> ids) const;  // added tokens by their content

  std::int32_t vocab_size() const {
    return static_cast<std::int32_t>(vocabulary_.tokens.size());
  }  // largest id + 1
  bool has_end_of_document() const { return end_of_document_ >= 0; }
  std::int32_t end_of_document() const;  // fails if the tokenizer has none

  // What `id` decodes to; empty where the vocabulary has a hole. Fails outside of [0, vocab_size).
  std::string_view token_bytes(std::int32_t id) const;
  // Bytes of document text that each id stands for: 0 for special tokens.
  std::vector<std::int32_t> byte_lengths() const;  // [vocab_size]

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  friend class Encoder;

  Vocabulary vocabulary_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  std::int32_t end_of_document_ = -1;
};

// Encodes on one thread, remembering the ids of the pieces it has seen. The tokenizer must outlive it.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  // Appends the ids of `text`; added tokens count as text.
  void encode(std::string_view text, std::vector<std::int32_t>& ids);

 private:
  const Tokenizer* tokenizer_;
  PieceFinder finder_;
  Bpe::Scratch scratch_;
  StringTable pieces_;                    // the cache: piece number i ...
  std::vector<std::int32_t> cached_ids_;  // ... has the ids from ends[i - 1] to ends[i]
  std::vector<std::size_t> cached_ends_;
};

}  // namespace xmoe
