#include "train/config.h"

#include "base/error.h"

namespace xmoe {

std::int64_t padded_vocabulary(std::int64_t size, std::int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

void TrainConfig::resolve(int world_size) {
  XMOE_CHECK(world_size > 0 && model.seq_length > 0, "resolve() needs a validated configuration");
  if (model.vocabulary == 0) model.vocabulary = padded_vocabulary(data.vocab_size, data.vocab_multiple);
  model.resolve();
  if (batch.global == 0) batch.global = batch.micro * world_size;
  // A part of a batch is not trained on: whole iterations only.
  if (batch.train_samples == 0) batch.train_samples = batch.train_tokens / model.seq_length;
  if (batch.train_iterations == 0) batch.train_iterations = batch.train_samples / batch.global;
  batch.train_samples = batch.train_iterations * batch.global;
  batch.train_tokens = batch.train_samples * model.seq_length;
}

}  // namespace xmoe
