// Backward: a warp per token, as on the CPU. The loss depends on the logits by three ways: the weights of the
// chosen experts, probs (auxiliary loss) and logsumexp (z-loss). The first two meet in the gradient of the
// scores, which is pulled back through the score function once.
#include "ops/routing/routing_gpu.h"
#include "ops/routing/routing_gpu_rows.h"

namespace xmoe::gpu {

namespace {

// Shared memory of a warp.
struct Scratch {
  float* probs;    // [E]
  float* scores;   // [E]
  float* dscores;  // [E]
  float* weights;  // [k]
  float* dchosen;  // [k]

  static std::int64_t bytes(std::int64_t experts, const RoutingOptions& o) {
    return (experts * 3 + o.top_k * 2) * static_cast<std::int64_t>(sizeof(float));
  }
  __device__ Scratch(unsigned char* memory, int experts, const RoutingOptions& o)
      : probs(reinterpret_cast<float*>(memory)),
        scores(probs + experts),
        dscores(scores + experts),
        weights(dscores + experts),
        dchosen(weights + o.top_k) {}
};

// Gradient of sum_j g_j w_j by the scores of the chosen experts (their logits for post-softmax), into
// s.dchosen. By one lane.
__device__ void chosen_gradient(const RoutingOptions& o, const float* scores, const std::int32_t* chosen,
                                const float* g, const Scratch& s) {
  const int k = static_cast<int>(o.top_k);
  for (int j = 0; j < k; ++j) s.weights[j] = scores[chosen[j]];
  const float divisor = normalise_weights(o, s.weights);
  const bool post_softmax = o.score_function == ScoreFunction::softmax && !o.pre_softmax;
  // w_j = u_j / sum(u): both forms subtract the mean of g under the weights; u is the score, or the
  // exponential of the logit.
  float mean = 0.0F;
  if (post_softmax || o.normalize_topk)
    for (int j = 0; j < k; ++j) mean += g[j] * s.weights[j];
  for (int j = 0; j < k; ++j)
    s.dchosen[j] = o.scaling_factor * (g[j] - mean) * (post_softmax ? s.weights[j] : 1.0F / divisor);
}

__device__ float warp_dot(const float* a, const float* b, int count) {
  float sum = 0.0F;
  for (int i = lane(); i < count; i += kWarpSize) sum += a[i] * b[i];
  return warp_sum(sum);
}

__global__ void backward_kernel(RoutingOptions o, const float* all_logits, const std::int32_t* top_experts,
                                const float* d_weights, const float* d_prob_sums, float d_z_sum,
                                std::int64_t tokens, int experts, std::int64_t scratch_bytes,
                                float* all_dlogits) {
  unsigned char* memory = dynamic_shared<unsigned char>();
  const Scratch s(memory + warp_of_block() * scratch_bytes, experts, o);
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarpSize) + warp_of_block();
  if (t >= tokens) return;
  const float* logits = all_logits + t * experts;
  const std::int32_t* chosen = top_experts + t * o.top_k;
  float* dlogits = all_dlogits + t * experts;
  const bool by_sigmoid = o.score_function == ScoreFunction::sigmoid;
  const bool has_aux = d_prob_sums != nullptr;

  const float z_factor = 2.0F * d_z_sum * log_sum_exp(logits, experts, s.probs);
  for (int e = lane(); e < experts; e += kWarpSize) {
    // Without a z-loss no probability, not even NaN, takes part.
    dlogits[e] = d_z_sum == 0.0F && by_sigmoid ? 0.0F : z_factor * s.probs[e];
    s.dscores[e] = has_aux ? d_prob_sums[e] : 0.0F;
  }
  float score_sum = 0.0F;
  const float* scores = o.pre_softmax ? s.probs : logits;
  if (by_sigmoid) {
    score_sum = sigmoid_scores(logits, experts, s.scores, s.probs);
    scores = s.scores;
  }
  warp_barrier();
  if (by_sigmoid && has_aux) {
    const float mean = warp_dot(s.dscores, s.probs, experts);
    for (int e = lane(); e < experts; e += kWarpSize) s.dscores[e] = (s.dscores[e] - mean) / score_sum;
    warp_barrier();
  }
  const bool through_scores = by_sigmoid || o.pre_softmax;
  if (lane() == 0) {
    chosen_gradient(o, scores, chosen, d_weights + t * o.top_k, s);
    for (int j = 0; j < o.top_k; ++j) (through_scores ? s.dscores : dlogits)[chosen[j]] += s.dchosen[j];
  }
  warp_barrier();
  if (by_sigmoid) {
    for (int e = lane(); e < experts; e += kWarpSize)
      dlogits[e] += s.dscores[e] * s.scores[e] * (1.0F - s.scores[e]);
  } else if (o.pre_softmax || has_aux) {
    const float mean = warp_dot(s.dscores, s.probs, experts);
    for (int e = lane(); e < experts; e += kWarpSize) dlogits[e] += s.probs[e] * (s.dscores[e] - mean);
  }
}

}  // namespace

void routing_backward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                      const Tensor& top_experts, const Tensor& d_weights, const Tensor& d_prob_sums,
                      float d_z_sum, const Tensor& dlogits) {
  check_device(ctx.device(), {logits, top_experts, d_weights, d_prob_sums, dlogits});
  const std::int64_t tokens = logits.dim(0);
  const std::int64_t experts = logits.dim(1);
  const std::int64_t scratch = Scratch::bytes(experts, options);
  const int warps = warps_for(scratch, experts);
  launch(backward_kernel, grid_of(tokens, warps), Block(static_cast<unsigned>(warps * kWarpSize)),
         static_cast<std::size_t>(scratch * warps), stream(ctx.device()), options, logits.data<float>(),
         top_experts.data<std::int32_t>(), d_weights.data<float>(),
         d_prob_sums.defined() ? d_prob_sums.data<float>() : nullptr, d_z_sum, tokens,
         static_cast<int>(experts), scratch, dlogits.data<float>());
}

}  // namespace xmoe::gpu
