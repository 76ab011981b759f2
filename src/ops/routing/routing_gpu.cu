// Forward: a warp per token; a block takes kTokensOfBlock tokens, and its sums over tokens are formed by
// warps and then over warps and blocks in order. Bound by the latency of the choice: k rounds of a maximum
// over the warp.
#include "ops/routing/routing_gpu.h"

#include "ops/routing/routing_gpu_rows.h"

namespace xmoe::gpu {

namespace {

// Few, so that 4,096 tokens keep a GPU busy; fixed, so that sums do not depend on the GPU.
constexpr int kTokensOfBlock = 16;

// A score and its index in one integer, as on the CPU: greater means chosen earlier, NaN comes last, equal
// scores by the lower index. Never 0, which marks a taken or excluded entry.
using Entry = unsigned long long;
__device__ Entry ranked(float score, int index) {
  const unsigned bits = __float_as_uint(score + 0.0F);  // +0 makes of -0 its equal, so that the two tie
  const unsigned flip = (bits >> 31) != 0 ? 0xffffffffU : 0x80000000U;
  const unsigned order = (bits & 0x7fffffffU) > 0x7f800000U ? 0U : bits ^ flip;
  return Entry{order} << 32 | (0xffffffffU - static_cast<unsigned>(index));
}
__device__ int ranked_index(Entry entry) {
  return static_cast<int>(0xffffffffU - static_cast<unsigned>(entry));
}

__device__ Entry greatest_of_lane(const Entry* entries, int count) {
  Entry best = 0;
  for (int i = lane(); i < count; i += kWarpSize) best = max(best, entries[i]);
  return best;
}

// Takes entries in decreasing order; every lane knows the greatest of its own.
class Selection {
 public:
  __device__ Selection(Entry* entries, int count)
      : entries_(entries), count_(count), mine_(greatest_of_lane(entries, count)) {}
  __device__ Entry take() {
    Entry best = mine_;
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) best = max(best, shuffle_xor(best, mask));
    if (best == mine_) {  // entries differ: one lane
      entries_[ranked_index(best)] = 0;
      mine_ = greatest_of_lane(entries_, count_);
    }
    return best;
  }

 private:
  Entry* entries_;
  int count_;
  Entry mine_;
};

// Shared memory of a warp.
struct Scratch {
  Entry* entries;    // [E]
  Entry* groups;     // [groups]
  float* probs;      // [E]
  float* scores;     // [E]
  float* prob_sums;  // [E], over the warp's tokens
  int* counts;       // [E], likewise
  float* weights;    // [k]

  static std::int64_t bytes(std::int64_t experts, const RoutingOptions& o) {
    const std::int64_t exact = experts * 24 + o.groups * 8 + o.top_k * 4;
    return ceil_div(exact, 8) * 8;
  }
  __device__ Scratch(unsigned char* memory, int experts, const RoutingOptions& o)
      : entries(reinterpret_cast<Entry*>(memory)),
        groups(entries + experts),
        probs(reinterpret_cast<float*>(groups + o.groups)),
        scores(probs + experts),
        prob_sums(scores + experts),
        counts(reinterpret_cast<int*>(prob_sums + experts)),
        weights(reinterpret_cast<float*>(counts + experts)) {}
};

// Clears the entries of all experts outside the best groups.
__device__ void exclude_groups(const RoutingOptions& o, const float* scores, const float* bias, int experts,
                               const Scratch& s) {
  const int groups = static_cast<int>(o.groups);
  const int size = experts / groups;
  const auto biased = [&](Entry entry) {
    const int e = ranked_index(entry);
    return bias == nullptr ? scores[e] : scores[e] + bias[e];
  };
  for (int g = lane(); g < groups; g += kWarpSize) {
    Entry best = 0;
    Entry second = 0;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = max(second, min(best, s.entries[e]));
      best = max(best, s.entries[e]);
    }
    float score = biased(best);
    if (bias != nullptr && size > 1) score += biased(second);
    s.groups[g] = ranked(score, g);
  }
  warp_barrier();
  Selection best_groups(s.groups, groups);
  for (int taken = 0; taken < o.topk_groups; ++taken) best_groups.take();
  warp_barrier();
  for (int e = lane(); e < experts; e += kWarpSize)
    if (s.groups[e / size] != 0) s.entries[e] = 0;
  warp_barrier();
}

// Everything about one token; returns logsumexp^2.
__device__ double route_token(const RoutingOptions& o, const float* logits, const float* bias, int experts,
                              const Scratch& s, std::int32_t* chosen, float* weights) {
  const float lse = log_sum_exp(logits, experts, s.probs);
  const float* scores = o.pre_softmax ? s.probs : logits;
  if (o.score_function == ScoreFunction::sigmoid) {
    sigmoid_scores(logits, experts, s.scores, s.probs);
    scores = s.scores;
  }
  for (int e = lane(); e < experts; e += kWarpSize) {
    s.prob_sums[e] += s.probs[e];
    s.entries[e] = ranked(bias == nullptr ? scores[e] : scores[e] + bias[e], e);
  }
  warp_barrier();
  if (o.groups > 1) exclude_groups(o, scores, bias, experts, s);
  Selection selection(s.entries, experts);
  for (int j = 0; j < o.top_k; ++j) {
    const int e = ranked_index(selection.take());
    if (lane() != 0) continue;
    chosen[j] = e;
    s.weights[j] = scores[e];
    ++s.counts[e];
  }
  if (lane() == 0) {
    normalise_weights(o, s.weights);
    for (int j = 0; j < o.top_k; ++j) weights[j] = s.weights[j] * o.scaling_factor;
  }
  warp_barrier();
  return static_cast<double>(lse) * static_cast<double>(lse);
}

__global__ void forward_kernel(RoutingOptions o, const float* logits, const float* bias, std::int64_t tokens,
                               int experts, std::int64_t scratch_bytes, std::int32_t* top_experts,
                               float* top_weights, float* block_probs, std::int32_t* block_counts,
                               double* block_z) {
  unsigned char* memory = dynamic_shared<unsigned char>();
  __shared__ double warp_z[kBlockThreads / kWarpSize];
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const Scratch s(memory + warp_of_block() * scratch_bytes, experts, o);
  for (int e = lane(); e < experts; e += kWarpSize) {
    s.prob_sums[e] = 0.0F;
    s.counts[e] = 0;
  }
  warp_barrier();
  double z = 0.0;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kTokensOfBlock;
  const std::int64_t end = begin + kTokensOfBlock < tokens ? begin + kTokensOfBlock : tokens;
  for (std::int64_t t = begin + warp_of_block(); t < end; t += warps)
    z += route_token(o, logits + t * experts, bias, experts, s, top_experts + t * o.top_k,
                     top_weights + t * o.top_k);
  if (lane() == 0) warp_z[warp_of_block()] = z;
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    float probability = 0.0F;
    std::int32_t count = 0;
    for (int w = 0; w < warps; ++w) {
      const Scratch of_warp(memory + w * scratch_bytes, experts, o);
      probability += of_warp.prob_sums[e];
      count += of_warp.counts[e];
    }
    block_probs[blockIdx.x * static_cast<std::int64_t>(experts) + e] = probability;
    block_counts[blockIdx.x * static_cast<std::int64_t>(experts) + e] = count;
  }
  if (threadIdx.x != 0) return;
  double total = 0.0;
  for (int w = 0; w < warps; ++w) total += warp_z[w];
  block_z[blockIdx.x] = total;
}

// Sums the blocks in order: a block takes kColumns experts (the one behind the last is z), its kGroups groups
// of threads a share of the blocks each.
constexpr int kColumns = 32;
constexpr int kGroups = 32;
__global__ void __launch_bounds__(kColumns* kGroups)
    totals_kernel(const float* block_probs, const std::int32_t* block_counts, const double* block_z,
                  std::int64_t blocks, int experts, float* prob_sums, std::int64_t* counts, float* z_sum) {
  __shared__ double sums[kGroups][kColumns];
  __shared__ long long numbers[kGroups][kColumns];
  const int e = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x);
  const std::int64_t share = (blocks + kGroups - 1) / kGroups;
  const std::int64_t begin = threadIdx.y * share;
  const std::int64_t end = begin + share < blocks ? begin + share : blocks;
  double sum = 0.0;
  long long number = 0;
  for (std::int64_t b = begin; b < end && e <= experts; ++b) {
    sum += e < experts ? static_cast<double>(block_probs[b * experts + e]) : block_z[b];
    if (e < experts) number += block_counts[b * experts + e];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  numbers[threadIdx.y][threadIdx.x] = number;
  __syncthreads();
  if (threadIdx.y != 0 || e > experts) return;
  for (int g = 1; g < kGroups; ++g) {
    sum += sums[g][threadIdx.x];
    number += numbers[g][threadIdx.x];
  }
  if (e == experts) {
    *z_sum = static_cast<float>(sum);
  } else {
    prob_sums[e] = static_cast<float>(sum);
    counts[e] = number;
  }
}

}  // namespace

void routing_forward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                     const Tensor& bias, const Tensor& top_experts, const Tensor& top_weights,
                     const Tensor& prob_sums, const Tensor& counts, const Tensor& z_sum) {
  check_device(ctx.device(), {logits, bias, top_experts, top_weights, prob_sums, counts, z_sum});
  const std::int64_t tokens = logits.dim(0);
  const std::int64_t experts = logits.dim(1);
  const std::int64_t blocks = ceil_div(tokens, kTokensOfBlock);
  const std::int64_t scratch = Scratch::bytes(experts, options);
  const int warps = warps_for(scratch, experts);
  const ArenaScope scope(ctx.workspace);
  const Tensor block_probs = ctx.workspace.tensor(DType::f32, {blocks, experts});
  const Tensor block_counts = ctx.workspace.tensor(DType::i32, {blocks, experts});
  auto* block_z =
      static_cast<double*>(ctx.workspace.allocate(static_cast<std::size_t>(blocks) * sizeof(double)));
  const Stream queue = stream(ctx.device());
  launch(forward_kernel, grid_of(blocks, 1), Block(static_cast<unsigned>(warps * kWarpSize)),
         static_cast<std::size_t>(scratch * warps), queue, options, logits.data<float>(),
         bias.defined() ? bias.data<float>() : nullptr, tokens, static_cast<int>(experts), scratch,
         top_experts.data<std::int32_t>(), top_weights.data<float>(), block_probs.data<float>(),
         block_counts.data<std::int32_t>(), block_z);
  launch(totals_kernel, grid_of(experts + 1, kColumns), Block(kColumns, kGroups), 0, queue,
         block_probs.data<float>(), block_counts.data<std::int32_t>(), block_z, blocks,
         static_cast<int>(experts), prob_sums.data<float>(), counts.data<std::int64_t>(),
         z_sum.data<float>());
}

}  // namespace xmoe::gpu
