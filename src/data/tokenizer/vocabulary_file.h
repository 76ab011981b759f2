// Tokenizer files: Hugging Face's tokenizer.json (byte-level BPE only) and GPT-2's vocab.json with
// merges.txt.
#pragma once

#include <filesystem>
#include <string>

#include "data/tokenizer/vocabulary.h"

namespace xmoe {

// `path`: a tokenizer.json, a vocab.json with merges.txt beside it, or a folder that holds either. Every
// error names the file and the field.
Vocabulary load_vocabulary(const std::filesystem::path& path);

// tokenizer.json, as every version of Hugging Face's library reads it.
std::string to_tokenizer_json(const Vocabulary& vocabulary);

}  // namespace xmoe
