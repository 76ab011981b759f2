#pragma once

#include "train/config.h"

namespace xmoe {

// Takes data.vocab_size from the tokenizer where it is not given; where it is, it must have room for the
// tokenizer's tokens. A tokenizer that does not exist is left to validate(). Throws Error.
void resolve_vocabulary(TrainConfig& config);

}  // namespace xmoe
