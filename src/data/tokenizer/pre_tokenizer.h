// Pre-tokenizers: they cut text into pieces (words with their leading space, numbers, punctuation, white
// space) across which BPE never merges. The patterns are GPT-2's, Qwen's and Llama-3's, matched by PCRE2 with
// Unicode properties.
//
// Text need not be valid UTF-8. Every byte that is no part of a well-formed sequence is a piece of its own,
// and the text on either side of it is cut as if it stood alone.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>

namespace xmoe {

enum class PreTokenizerKind { gpt2, qwen, llama3 };

std::string_view name_of(PreTokenizerKind kind);
std::string_view pattern_of(PreTokenizerKind kind);  // as written in tokenizer.json
std::optional<PreTokenizerKind> pre_tokenizer_named(std::string_view name);
std::optional<PreTokenizerKind> pre_tokenizer_with_pattern(std::string_view pattern);

// A compiled pattern; cheap to copy, shared by threads.
class PreTokenizer {
 public:
  explicit PreTokenizer(PreTokenizerKind kind);
  PreTokenizerKind kind() const { return kind_; }

 private:
  friend class PieceFinder;
  struct Pattern;
  PreTokenizerKind kind_;
  std::shared_ptr<const Pattern> pattern_;
};

// Walks over the pieces of a text; they cover it without gaps. One per thread.
class PieceFinder {
 public:
  explicit PieceFinder(const PreTokenizer& pre_tokenizer);
  ~PieceFinder();
  PieceFinder(PieceFinder&& other) noexcept;
  PieceFinder& operator=(PieceFinder&& other) noexcept;

  void start(std::string_view text);
  bool next(std::string_view& piece);  // false at the end

 private:
  struct Workspace;
  std::unique_ptr<Workspace> workspace_;
  std::string_view text_;
  std::size_t position_ = 0;
  std::size_t valid_end_ = 0;  // [position_, valid_end_) is known to be well-formed
};

// Length of a prefix of `text` of at least `wanted` bytes such that the pieces of the prefix and of the rest
// are those of `text`, whichever the pattern; all of `text` if it has no such place.
std::size_t safe_cut(std::string_view text, std::size_t wanted);

}  // namespace xmoe
