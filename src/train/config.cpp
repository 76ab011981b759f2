#include "train/config.h"

#include <algorithm>

#include "base/error.h"

namespace xmoe {

std::int64_t padded_vocabulary(std::int64_t size, std::int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

std::int64_t data_parallel_size(const ParallelLayout& layout, int world_size) {
  return std::max<std::int64_t>(1, world_size / std::max<std::int64_t>(1, layout.tensor));
}

void TrainConfig::resolve(int world_size) {
  XMOE_CHECK(world_size > 0, "the number of ranks is {}", world_size);
  if (model.vocabulary == 0) model.vocabulary = padded_vocabulary(data.vocab_size, data.vocab_multiple);
  model.resolve();
  optimizer.rounding_seed = seed;
  if (batch.global == 0) batch.global = batch.micro * data_parallel_size(parallel.layout, world_size);
  // The shortest length that is given, in whole iterations: a part of a batch is not trained on.
  const auto limit = [this](std::int64_t iterations) {
    batch.train_iterations =
        batch.train_iterations == 0 ? iterations : std::min(batch.train_iterations, iterations);
  };
  if (batch.train_samples > 0) limit(batch.train_samples / batch.global);
  batch.train_samples = 0;
  if (batch.train_tokens > 0 && model.seq_length > 0) {
    limit(batch.train_tokens / (batch.global * model.seq_length));
    batch.train_tokens = 0;
  }
}

}  // namespace xmoe
