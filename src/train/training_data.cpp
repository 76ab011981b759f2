#include "train/training_data.h"

#include <algorithm>

#include "base/hash.h"

namespace xmoe {

DataBlend open_data(const std::vector<DataSource>& sources) {
  std::vector<BlendEntry> entries;
  entries.reserve(sources.size());
  for (const auto& s : sources) entries.push_back({s.weight, s.prefix});
  return open_blend(entries);
}

std::string data_fingerprint(const DataBlend& blend) {
  std::uint64_t hash = 0;
  for (const auto& [weight, dataset] : blend) {
    hash = hash64(&weight, sizeof(weight), hash);
    const std::int64_t sizes[] = {dataset->documents(), dataset->tokens()};
    hash = hash64(sizes, sizeof(sizes), hash);
    // Documents spread over the whole set stand for all of them.
    constexpr std::int64_t kProbes = 64;
    constexpr std::int64_t kProbeTokens = 256;
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < std::min(kProbes, dataset->documents()); ++i) {
      const std::int64_t document = i * dataset->documents() / std::min(kProbes, dataset->documents());
      tokens.resize(static_cast<std::size_t>(std::min(kProbeTokens, dataset->document_length(document))));
      dataset->read(document, 0, tokens);
      hash = hash64(tokens.data(), tokens.size() * sizeof(std::int32_t), hash);
    }
  }
  return fmt::format("{:016x}", hash);
}

TrainingData::TrainingData(const TrainConfig& config, int worker, int workers)
    : micro_(config.batch.micro),
      seq_length_(config.model.seq_length),
      worker_(worker),
      workers_(workers),
      blend_(open_data(config.data.sources)),
      stream_(blend_, config.data.split, Split::train,
              {.seq_length = seq_length_, .seed = config.seed, .vocab_size = config.data.vocab_size}),
      fingerprint_(data_fingerprint(blend_)) {}

void TrainingData::read(std::int64_t first, std::int64_t index, const Tensor& tokens,
                        const Tensor& targets) const {
  std::vector<std::int32_t> sample(static_cast<std::size_t>(seq_length_ + 1));
  for (std::int64_t j = 0; j < micro_; ++j) {
    stream_.read(first + (index * workers_ + worker_) * micro_ + j, sample);
    std::copy(sample.begin(), sample.end() - 1, tokens.data<std::int32_t>() + j * seq_length_);
    std::copy(sample.begin() + 1, sample.end(), targets.data<std::int32_t>() + j * seq_length_);
  }
}

}  // namespace xmoe
