// The plain content of a byte-level BPE tokenizer, as the trainer makes it and files hold it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/pre_tokenizer.h"

namespace xmoe {

// The end of a document, trained in by default.
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

// A token that BPE does not produce: it is matched whole in text, where the caller asks for it.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = true;  // control rather than text: stands for no bytes of a document
};

struct Merge {
  std::int32_t left = 0;
  std::int32_t right = 0;
  std::int32_t merged = 0;
};

struct Vocabulary {
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::gpt2;
  bool ignore_merges = false;       // a piece that is a token is that token, whatever the merges say
  std::vector<std::string> tokens;  // bytes by id; empty where an id has no token
  std::vector<Merge> merges;        // in the order of their rank
  std::vector<AddedToken> added;
  std::string post_processor = "null";  // JSON, kept as found: it adds tokens for other programs, never here
};

}  // namespace xmoe
