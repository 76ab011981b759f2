// What the forward and the backward pass of the CPU routing compute alike, for the row of one token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/cpu_math.h"
#include "ops/cpu_rows.h"
#include "ops/routing/routing.h"

namespace xmoe::cpu {

// Tokens whose sums are formed in order by one thread: enough to hide the handing out, few enough for many
// threads.
inline constexpr std::int64_t kTokenBlock = 256;

// Keeps a sum of sigmoid scores from being 0.
inline constexpr float kSigmoidEpsilon = 1e-20F;

// probs = softmax(logits); returns log sum exp.
inline float log_sum_exp(const float* logits, std::int64_t experts, float* probs) {
  const float maximum = row_max(logits, experts);
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t e = 0; e < experts; ++e) {
    probs[e] = fast_exp(logits[e] - maximum);
    sum += probs[e];
  }
  const float inverse = 1.0F / sum;
  for (std::int64_t e = 0; e < experts; ++e) probs[e] *= inverse;
  return maximum + std::log(sum);
}

// scores = sigmoid(logits), probs = scores / their sum; returns the sum, epsilon included.
inline float sigmoid_scores(const float* logits, std::int64_t experts, float* scores, float* probs) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t e = 0; e < experts; ++e) {
    scores[e] = sigmoid(logits[e]);
    sum += scores[e];
  }
  sum += kSigmoidEpsilon;
  const float inverse = 1.0F / sum;
  for (std::int64_t e = 0; e < experts; ++e) probs[e] = scores[e] * inverse;
  return sum;
}

// From the scores of the chosen experts to their weights before scaling, in place. Returns what the weights
// were divided by.
inline float normalise_weights(const RoutingOptions& options, float* weights) {
  const std::int64_t k = options.top_k;
  if (options.score_function == ScoreFunction::softmax && !options.pre_softmax) {
    float maximum = weights[0];
    for (std::int64_t j = 1; j < k; ++j) maximum = std::max(maximum, weights[j]);
    for (std::int64_t j = 0; j < k; ++j) weights[j] = fast_exp(weights[j] - maximum);
  } else if (!options.normalize_topk) {
    return 1.0F;
  }
  float sum = options.score_function == ScoreFunction::sigmoid ? kSigmoidEpsilon : 0.0F;
  for (std::int64_t j = 0; j < k; ++j) sum += weights[j];
  for (std::int64_t j = 0; j < k; ++j) weights[j] /= sum;
  return sum;
}

}  // namespace xmoe::cpu
