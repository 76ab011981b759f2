#include "moe/pft.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "device/gpu_built.h"
#include "moe/pft_gpu.h"

namespace xmoe {

namespace {

// Assignments that lose their place: for every expert over capacity all but the `capacity` of highest weight.
void drop_over_capacity(std::int64_t capacity, std::int64_t assignments, const std::int32_t* experts,
                        const float* weights, const std::vector<std::int64_t>& per_expert,
                        std::int32_t* rows) {
  std::vector<std::vector<std::int32_t>> over(per_expert.size());
  for (std::int64_t a = 0; a < assignments; ++a) {
    const auto e = static_cast<std::size_t>(experts[a]);
    if (per_expert[e] > capacity) over[e].push_back(static_cast<std::int32_t>(a));
  }
  // NaN loses against every number, so that the order stays a strict one.
  const auto weight = [weights](std::int32_t a) {
    return std::isnan(weights[a]) ? -std::numeric_limits<float>::infinity() : weights[a];
  };
  for (auto& list : over) {
    if (list.empty()) continue;
    std::nth_element(list.begin(), list.begin() + capacity, list.end(), [&](std::int32_t a, std::int32_t b) {
      const float wa = weight(a);
      const float wb = weight(b);
      return wa != wb ? wa > wb : a < b;
    });
    for (auto it = list.begin() + capacity; it != list.end(); ++it) rows[*it] = -1;
  }
}

// Where the rows of a chunk lie, those that are kept: rows[a] is not negative.
void place(const Tensor& top_experts, const Tensor& top_weights, Arena& arena, Arena& weights_arena,
           Pft& pft) {
  const std::int64_t assignments = pft.tokens * pft.top_k;
  const auto* expert = top_experts.data<std::int32_t>();
  const auto* weight = top_weights.data<float>();
  auto* rows = pft.rows.data<std::int32_t>();
  for (std::int64_t a = 0; a < assignments; ++a)
    if (rows[a] >= 0) ++pft.per_expert[static_cast<std::size_t>(expert[a])];
  std::vector<std::int64_t> next(pft.per_expert.size());
  std::exclusive_scan(pft.per_expert.begin(), pft.per_expert.end(), next.begin(), std::int64_t{0});
  const std::int64_t kept = std::accumulate(pft.per_expert.begin(), pft.per_expert.end(), std::int64_t{0});
  pft.token_ids = arena.tensor(DType::i32, {kept});
  pft.weights = weights_arena.tensor(DType::f32, {kept});
  auto* token_ids = pft.token_ids.data<std::int32_t>();
  auto* kept_weights = pft.weights.data<float>();
  for (std::int64_t a = 0; a < assignments; ++a) {
    if (rows[a] < 0) continue;
    const std::int64_t row = next[static_cast<std::size_t>(expert[a])]++;
    rows[a] = static_cast<std::int32_t>(row);
    token_ids[row] = static_cast<std::int32_t>(a / pft.top_k);
    kept_weights[row] = weight[a];
  }
}

void build_on_cpu(Arena& arena, Arena& weights_arena, std::int64_t experts, const Tensor& top_experts,
                  const Tensor& top_weights, std::optional<std::int64_t> capacity, const Tensor& rows,
                  std::vector<Pft>& pfts) {
  const std::int64_t assignments = rows.numel();
  const auto* expert = top_experts.data<std::int32_t>();
  std::vector<std::int64_t> per_expert(static_cast<std::size_t>(experts), 0);
  for (std::int64_t a = 0; a < assignments; ++a) {
    XMOE_CHECK(expert[a] >= 0 && expert[a] < experts, "assignment {} names expert {} of {}", a, expert[a],
               experts);
    ++per_expert[static_cast<std::size_t>(expert[a])];
  }
  std::fill_n(rows.data<std::int32_t>(), assignments, 0);
  if (capacity)
    drop_over_capacity(*capacity, assignments, expert, top_weights.data<float>(), per_expert,
                       rows.data<std::int32_t>());
  std::int64_t first = 0;
  for (Pft& pft : pfts) {
    const std::int64_t end = first + pft.tokens;
    place(top_experts.slice(first, end), top_weights.slice(first, end), arena, weights_arena, pft);
    first = end;
  }
}

}  // namespace

std::int64_t expert_capacity(std::int64_t tokens, std::int64_t top_k, std::int64_t experts, double factor,
                             std::int64_t min_capacity) {
  const double share = static_cast<double>(tokens * top_k) * factor / static_cast<double>(experts);
  // Compared before the conversion: a large factor may give more than an integer holds.
  const bool all_fit = share >= static_cast<double>(tokens);
  return std::max(min_capacity, all_fit ? tokens : static_cast<std::int64_t>(std::ceil(share)));
}

std::vector<Pft> build_pfts(const Context& ctx, Arena& arena, Arena& weights_arena, std::int64_t experts,
                            const Tensor& top_experts, const Tensor& top_weights,
                            std::optional<std::int64_t> capacity, std::int64_t chunks) {
  const std::int64_t tokens = top_experts.dim(0);
  const std::int64_t top_k = top_experts.dim(1);
  check_shape(top_weights, top_experts.shape(), "top_weights");
  check_dtype(top_experts, DType::i32, "top_experts");
  check_dtype(top_weights, DType::f32, "top_weights");
  XMOE_CHECK(tokens * top_k <= std::numeric_limits<std::int32_t>::max(),
             "{} tokens x {} experts each are more assignments than 32 bits number", tokens, top_k);
  const Tensor rows = arena.tensor(DType::i32, top_experts.shape());
  std::vector<Pft> pfts(static_cast<std::size_t>(chunks));
  for (std::int64_t i = 0; i < chunks; ++i) {
    Pft& pft = pfts[static_cast<std::size_t>(i)];
    pft.rows = rows.slice(chunk_begin(tokens, i, chunks), chunk_begin(tokens, i + 1, chunks));
    pft.tokens = pft.rows.dim(0);
    pft.top_k = top_k;
    pft.per_expert.assign(static_cast<std::size_t>(experts), 0);
  }
  if (ctx.device().is_cpu()) {
    build_on_cpu(arena, weights_arena, experts, top_experts, top_weights, capacity, rows, pfts);
    return pfts;
  }
  if constexpr (kGpuBuilt) {
    gpu::fill_pfts(ctx, arena, weights_arena, top_experts, top_weights, capacity, rows, pfts);
    return pfts;
  }
  fail_not_built("build_pfts", ctx.device());
}

}  // namespace xmoe
