// What the forward and the backward pass of the GPU's routing compute alike: a warp works on the row of one
// token in shared memory, each lane on the experts lane, lane + warp, ...
#pragma once

#include <cstdint>

#include "device/gpu.h"
#include "ops/gpu_rows.h"
#include "ops/routing/routing.h"

namespace xmoe::gpu {

// Keeps a sum of sigmoid scores from being 0.
inline constexpr float kSigmoidEpsilon = 1e-20F;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarpSize; }

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// Passes over NaN.
__device__ inline float warp_max(float value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

// probs = softmax(logits); returns log sum exp.
__device__ inline float log_sum_exp(const float* logits, int experts, float* probs) {
  float maximum = -INFINITY;
  for (int e = lane(); e < experts; e += kWarpSize) maximum = fmaxf(maximum, logits[e]);
  maximum = warp_max(maximum);
  float sum = 0.0F;
  for (int e = lane(); e < experts; e += kWarpSize) {
    probs[e] = expf(logits[e] - maximum);
    sum += probs[e];
  }
  sum = warp_sum(sum);
  for (int e = lane(); e < experts; e += kWarpSize) probs[e] /= sum;
  return maximum + logf(sum);
}

// scores = sigmoid(logits), probs = scores / their sum; returns the sum, epsilon included.
__device__ inline float sigmoid_scores(const float* logits, int experts, float* scores, float* probs) {
  float sum = 0.0F;
  for (int e = lane(); e < experts; e += kWarpSize) {
    scores[e] = 1.0F / (1.0F + expf(-logits[e]));
    sum += scores[e];
  }
  sum = warp_sum(sum) + kSigmoidEpsilon;
  for (int e = lane(); e < experts; e += kWarpSize) probs[e] = scores[e] / sum;
  return sum;
}

// From the scores of the chosen experts to their weights before scaling, in place, by one lane: in order of
// the slots, which are few. Returns what the weights were divided by.
__device__ inline float normalise_weights(const RoutingOptions& options, float* weights) {
  const int k = static_cast<int>(options.top_k);
  if (options.score_function == ScoreFunction::softmax && !options.pre_softmax) {
    float maximum = weights[0];
    for (int j = 1; j < k; ++j) maximum = fmaxf(maximum, weights[j]);
    for (int j = 0; j < k; ++j) weights[j] = expf(weights[j] - maximum);
  } else if (!options.normalize_topk) {
    return 1.0F;
  }
  float sum = options.score_function == ScoreFunction::sigmoid ? kSigmoidEpsilon : 0.0F;
  for (int j = 0; j < k; ++j) sum += weights[j];
  for (int j = 0; j < k; ++j) weights[j] /= sum;
  return sum;
}

// Warps of a block where each needs so many bytes of shared memory.
inline int warps_for(std::int64_t bytes_of_warp, std::int64_t experts) {
  constexpr std::int64_t kMostWarps = kBlockThreads / kWarpSize;
  constexpr std::int64_t kUsualBytes = 48 << 10;  // four such blocks fit a multiprocessor
  constexpr std::int64_t kMostBytes = 160 << 10;  // what every GPU that is supported gives one block
  if (bytes_of_warp > kMostBytes)
    fail("routing to {} experts does not fit the shared memory of a GPU", experts);
  const std::int64_t warps = kUsualBytes / bytes_of_warp;
  return static_cast<int>(warps < 1 ? 1 : warps > kMostWarps ? kMostWarps : warps);
}

}  // namespace xmoe::gpu
