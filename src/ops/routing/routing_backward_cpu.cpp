// Backward: every token is independent. The loss depends on the logits by three ways: the weights of the
// chosen experts, probs (auxiliary loss) and logsumexp (z-loss). The first two meet in the gradient of the
// scores, which is pulled back through the score function once.
#include <algorithm>

#include "base/parallel.h"
#include "ops/routing/routing_cpu.h"
#include "ops/routing/routing_rows.h"

namespace xmoe::cpu {

namespace {

// What a thread needs for one token.
struct BackwardScratch {
  float* probs;    // [E]
  float* scores;   // [E]
  float* dscores;  // [E]
  float* weights;  // [k]
  float* dchosen;  // [k]
};

class RoutingBackward {
 public:
  RoutingBackward(const RoutingOptions& options, const Tensor& logits, const Tensor& top_experts,
                  const Tensor& d_weights, const Tensor& d_prob_sums, float d_z_sum, const Tensor& dlogits)
      : options_(options),
        experts_(logits.dim(1)),
        logits_(logits.data<float>()),
        top_experts_(top_experts.data<std::int32_t>()),
        d_weights_(d_weights.data<float>()),
        d_prob_sums_(d_prob_sums.defined() ? d_prob_sums.data<float>() : nullptr),
        d_z_sum_(d_z_sum),
        dlogits_(dlogits.data<float>()) {}

  void token(std::int64_t t, const BackwardScratch& s) const {
    const float* logits = logits_ + t * experts_;
    const std::int32_t* chosen = top_experts_ + t * options_.top_k;
    float* dlogits = dlogits_ + t * experts_;
    const bool by_sigmoid = options_.score_function == ScoreFunction::sigmoid;
    if (by_sigmoid && d_z_sum_ == 0.0F) {
      std::fill_n(dlogits, experts_, 0.0F);
    } else {
      const float lse = log_sum_exp(logits, experts_, s.probs);
      const float factor = 2.0F * d_z_sum_ * lse;
      for (std::int64_t e = 0; e < experts_; ++e) dlogits[e] = factor * s.probs[e];
    }
    if (by_sigmoid) {
      sigmoid_token(logits, chosen, d_weights_ + t * options_.top_k, s, dlogits);
    } else {
      softmax_token(logits, chosen, d_weights_ + t * options_.top_k, s, dlogits);
    }
  }

 private:
  // Gradient of sum_j g_j w_j by the scores of the chosen experts (their logits for post-softmax), into
  // s.dchosen.
  void chosen_gradient(const float* scores, const std::int32_t* chosen, const float* g,
                       const BackwardScratch& s) const {
    const std::int64_t k = options_.top_k;
    for (std::int64_t j = 0; j < k; ++j) {
      XMOE_DCHECK(0 <= chosen[j] && chosen[j] < experts_, "expert {} of {}", chosen[j], experts_);
      s.weights[j] = scores[chosen[j]];
    }
    const float divisor = normalise_weights(options_, s.weights);
    const bool post_softmax = options_.score_function == ScoreFunction::softmax && !options_.pre_softmax;
    // w_j = u_j / sum(u): both forms subtract the mean of g under the weights; u is the score, or the
    // exponential of the logit.
    float mean = 0.0F;
    if (post_softmax || options_.normalize_topk)
      for (std::int64_t j = 0; j < k; ++j) mean += g[j] * s.weights[j];
    for (std::int64_t j = 0; j < k; ++j)
      s.dchosen[j] = options_.scaling_factor * (g[j] - mean) * (post_softmax ? s.weights[j] : 1.0F / divisor);
  }

  void softmax_token(const float* logits, const std::int32_t* chosen, const float* g,
                     const BackwardScratch& s, float* dlogits) const {
    chosen_gradient(options_.pre_softmax ? s.probs : logits, chosen, g, s);
    if (!options_.pre_softmax) {
      for (std::int64_t j = 0; j < options_.top_k; ++j) dlogits[chosen[j]] += s.dchosen[j];
      if (d_prob_sums_ == nullptr) return;
    }
    start_from_aux(s.dscores);
    if (options_.pre_softmax)
      for (std::int64_t j = 0; j < options_.top_k; ++j) s.dscores[chosen[j]] += s.dchosen[j];
    const float mean = dot(s.dscores, s.probs, experts_);
    for (std::int64_t e = 0; e < experts_; ++e) dlogits[e] += s.probs[e] * (s.dscores[e] - mean);
  }

  void sigmoid_token(const float* logits, const std::int32_t* chosen, const float* g,
                     const BackwardScratch& s, float* dlogits) const {
    const float sum = sigmoid_scores(logits, experts_, s.scores, s.probs);
    chosen_gradient(s.scores, chosen, g, s);
    start_from_aux(s.dscores);
    if (d_prob_sums_ != nullptr) {
      const float mean = dot(s.dscores, s.probs, experts_);
      for (std::int64_t e = 0; e < experts_; ++e) s.dscores[e] = (s.dscores[e] - mean) / sum;
    }
    for (std::int64_t j = 0; j < options_.top_k; ++j) s.dscores[chosen[j]] += s.dchosen[j];
    for (std::int64_t e = 0; e < experts_; ++e)
      dlogits[e] += s.dscores[e] * s.scores[e] * (1.0F - s.scores[e]);
  }

  void start_from_aux(float* dscores) const {
    if (d_prob_sums_ == nullptr) {
      std::fill_n(dscores, experts_, 0.0F);
    } else {
      std::copy_n(d_prob_sums_, experts_, dscores);
    }
  }

  RoutingOptions options_;
  std::int64_t experts_;
  const float* logits_;
  const std::int32_t* top_experts_;
  const float* d_weights_;
  const float* d_prob_sums_;
  float d_z_sum_;
  float* dlogits_;
};

}  // namespace

void routing_backward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                      const Tensor& top_experts, const Tensor& d_weights, const Tensor& d_prob_sums,
                      float d_z_sum, const Tensor& dlogits) {
  const ArenaScope scope(ctx.workspace);
  const std::int64_t tokens = logits.dim(0);
  const std::int64_t experts = logits.dim(1);
  const Tensor rows = ctx.workspace.tensor(DType::f32, {thread_count(), 3 * experts + 2 * options.top_k});
  const RoutingBackward backward(options, logits, top_experts, d_weights, d_prob_sums, d_z_sum, dlogits);
  parallel_tasks((tokens + kTokenBlock - 1) / kTokenBlock, [&](std::int64_t block, int thread) {
    float* memory = rows.data<float>() + thread * rows.dim(1);
    const BackwardScratch scratch{memory, memory + experts, memory + 2 * experts, memory + 3 * experts,
                                  memory + 3 * experts + options.top_k};
    const std::int64_t end = std::min(tokens, (block + 1) * kTokenBlock);
    for (std::int64_t t = block * kTokenBlock; t < end; ++t) backward.token(t, scratch);
  });
}

}  // namespace xmoe::cpu
