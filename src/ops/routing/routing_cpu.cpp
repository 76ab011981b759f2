// Forward: threads take fixed blocks of tokens; sums over tokens are formed per block and then over the
// blocks in order, so that they do not depend on the number of threads. Bound by one exponential and one pass
// of the selection per logit.
#include "ops/routing/routing_cpu.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "ops/routing/routing_rows.h"
#include "ops/routing/selection.h"

namespace xmoe::cpu {

namespace {

// What a thread needs for one token.
struct RoutingScratch {
  float* probs;            // [E]
  float* scores;           // [E]: what the choice and the weights are made of
  std::uint64_t* entries;  // [padded E]
  std::uint64_t* maxima;   // [padded E / block]
  std::uint64_t* groups;   // [padded groups]
};

// Sums over one block of tokens.
struct Partial {
  float* prob_sums;      // [E]
  std::int32_t* counts;  // [E]
  double* z_sum;
};

class Forward {
 public:
  Forward(const RoutingOptions& options, const Tensor& logits, const Tensor& bias, const Tensor& top_experts,
          const Tensor& top_weights)
      : options_(options),
        experts_(logits.dim(1)),
        logits_(logits.data<float>()),
        bias_(bias.defined() ? bias.data<float>() : nullptr),
        top_experts_(top_experts.data<std::int32_t>()),
        top_weights_(top_weights.data<float>()) {}

  void token(std::int64_t t, const RoutingScratch& s, const Partial& partial) const {
    const float* logits = logits_ + t * experts_;
    const double lse = log_sum_exp(logits, experts_, s.probs);
    *partial.z_sum += lse * lse;
    const float* scores = logits;
    if (options_.score_function == ScoreFunction::sigmoid) {
      sigmoid_scores(logits, experts_, s.scores, s.probs);
      scores = s.scores;
    } else if (options_.pre_softmax) {
      scores = s.probs;
    }
    for (std::int64_t e = 0; e < experts_; ++e) partial.prob_sums[e] += s.probs[e];
    choose(scores, s, top_experts_ + t * options_.top_k);
    weigh(scores, top_experts_ + t * options_.top_k, top_weights_ + t * options_.top_k);
    for (std::int64_t j = 0; j < options_.top_k; ++j) ++partial.counts[top_experts_[t * options_.top_k + j]];
  }

 private:
  float biased(const float* scores, std::int64_t e) const {
    return bias_ == nullptr ? scores[e] : scores[e] + bias_[e];
  }

  void choose(const float* scores, const RoutingScratch& s, std::int32_t* chosen) const {
    if (bias_ == nullptr) {
      for (std::int64_t e = 0; e < experts_; ++e)
        s.entries[e] = ranked(scores[e], static_cast<std::uint32_t>(e));
    } else {
      for (std::int64_t e = 0; e < experts_; ++e)
        s.entries[e] = ranked(scores[e] + bias_[e], static_cast<std::uint32_t>(e));
    }
    std::fill(s.entries + experts_, s.entries + Selection::padded(experts_), 0);
    if (options_.groups > 1) exclude_groups(scores, s);
    Selection selection(s.entries, s.maxima, experts_);
    for (std::int64_t j = 0; j < options_.top_k; ++j) chosen[j] = static_cast<std::int32_t>(selection.take());
  }

  // Clears the entries of all experts outside the best groups.
  void exclude_groups(const float* scores, const RoutingScratch& s) const {
    const std::int64_t size = experts_ / options_.groups;
    for (std::int64_t g = 0; g < options_.groups; ++g) {
      std::uint64_t best = 0;
      std::uint64_t second = 0;
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
        second = std::max(second, std::min(best, s.entries[e]));
        best = std::max(best, s.entries[e]);
      }
      float score = biased(scores, ranked_index(best));
      if (bias_ != nullptr && size > 1) score += biased(scores, ranked_index(second));
      s.groups[g] = ranked(score, static_cast<std::uint32_t>(g));
    }
    // Groups are few: what the best ones leave behind is excluded.
    for (std::int64_t taken = 0; taken < options_.topk_groups; ++taken)
      *std::max_element(s.groups, s.groups + options_.groups) = 0;
    for (std::int64_t g = 0; g < options_.groups; ++g)
      if (s.groups[g] != 0) std::fill_n(s.entries + g * size, size, 0);
  }

  void weigh(const float* scores, const std::int32_t* chosen, float* weights) const {
    for (std::int64_t j = 0; j < options_.top_k; ++j) weights[j] = scores[chosen[j]];
    normalise_weights(options_, weights);
    for (std::int64_t j = 0; j < options_.top_k; ++j) weights[j] *= options_.scaling_factor;
  }

  RoutingOptions options_;
  std::int64_t experts_;
  const float* logits_;
  const float* bias_;
  std::int32_t* top_experts_;
  float* top_weights_;
};

}  // namespace

void routing_forward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                     const Tensor& bias, const Tensor& top_experts, const Tensor& top_weights,
                     const Tensor& prob_sums, const Tensor& counts, const Tensor& z_sum) {
  const ArenaScope scope(ctx.workspace);
  const std::int64_t tokens = logits.dim(0);
  const std::int64_t experts = logits.dim(1);
  const std::int64_t blocks = (tokens + kTokenBlock - 1) / kTokenBlock;
  const std::int64_t threads = thread_count();
  const std::int64_t padded = Selection::padded(experts);
  const Tensor probs = ctx.workspace.tensor(DType::f32, {threads, padded});
  const Tensor scores = ctx.workspace.tensor(DType::f32, {threads, padded});
  const Tensor entries = ctx.workspace.tensor(DType::i64, {threads, padded});
  const Tensor maxima = ctx.workspace.tensor(DType::i64, {threads, padded});
  const Tensor groups = ctx.workspace.tensor(DType::i64, {threads, options.groups});
  const Tensor block_probs = ctx.workspace.zeros(DType::f32, {blocks, experts});
  const Tensor block_counts = ctx.workspace.zeros(DType::i32, {blocks, experts});
  auto* block_z =
      static_cast<double*>(ctx.workspace.allocate(static_cast<std::size_t>(blocks) * sizeof(double)));

  const Forward forward(options, logits, bias, top_experts, top_weights);
  parallel_tasks(blocks, [&](std::int64_t block, int thread) {
    const RoutingScratch scratch{probs.data<float>() + thread * padded,
                                 scores.data<float>() + thread * padded,
                                 static_cast<std::uint64_t*>(entries.raw()) + thread * padded,
                                 static_cast<std::uint64_t*>(maxima.raw()) + thread * padded,
                                 static_cast<std::uint64_t*>(groups.raw()) + thread * options.groups};
    block_z[block] = 0.0;
    const Partial partial{block_probs.data<float>() + block * experts,
                          block_counts.data<std::int32_t>() + block * experts, block_z + block};
    const std::int64_t end = std::min(tokens, (block + 1) * kTokenBlock);
    for (std::int64_t t = block * kTokenBlock; t < end; ++t) forward.token(t, scratch, partial);
  });

  for (std::int64_t e = 0; e < experts; ++e) {
    double probability = 0.0;
    std::int64_t count = 0;
    for (std::int64_t b = 0; b < blocks; ++b) {
      probability += block_probs.data<float>()[b * experts + e];
      count += block_counts.data<std::int32_t>()[b * experts + e];
    }
    prob_sums.data<float>()[e] = static_cast<float>(probability);
    counts.data<std::int64_t>()[e] = count;
  }
  double z = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b) z += block_z[b];
  z_sum.data<float>()[0] = static_cast<float>(z);
}

}  // namespace xmoe::cpu
