// Choice of the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace xmoe {

struct SamplingOptions {
  double temperature = 1.0;  // 0: the most likely token (ties: the lower id)
  std::int64_t top_k = 0;    // only the k most likely; 0: no limit
  // Only the most likely that together reach this probability (nucleus; Holtzman et al. 2020).
  double top_p = 1.0;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) {}

  // `uniform` in [0, 1) is the random number that decides.
  std::int32_t choose(std::span<const float> logits, double uniform);

 private:
  SamplingOptions options_;
  std::vector<std::int32_t> order_;
  std::vector<double> probability_;
};

}  // namespace xmoe
