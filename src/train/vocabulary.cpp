#include "train/vocabulary.h"

#include "base/error.h"
#include "data/tokenizer/tokenizer.h"

namespace xmoe {

void resolve_vocabulary(TrainConfig& config) {
  DataConfig& data = config.data;
  std::error_code error;
  if (data.tokenizer.empty() || !std::filesystem::exists(data.tokenizer, error)) return;
  const std::int64_t tokens = Tokenizer::load(data.tokenizer).vocab_size();
  if (data.vocab_size == 0) data.vocab_size = tokens;
  if (data.vocab_size < tokens)
    fail("--vocab-size {} has no room for the {} tokens of {}: use at least {}, or leave it out",
         data.vocab_size, tokens, data.tokenizer.string(), tokens);
}

}  // namespace xmoe
