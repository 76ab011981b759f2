// Padding-free token buffer (PFT): which rows the experts compute, sorted by expert, without padding (X-MoE,
// SC'25, section 4.1).
//
// T tokens choose k of E experts each: assignment a = t * k + slot. Without a capacity every assignment is
// kept. With one, an expert keeps its `capacity` assignments of highest weight (ties: the lower assignment);
// a token is dropped from an expert only when that expert is over its capacity. B assignments are kept; their
// rows are sorted by expert and, within an expert, by token.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

struct Pft {
  std::int64_t tokens = 0;               // T
  std::int64_t top_k = 0;                // k
  std::vector<std::int64_t> per_expert;  // [E] rows kept; host memory
  Tensor token_ids;                      // [B] i32: row i holds this token
  Tensor weights;                        // [B] f32: combine weight of row i
  Tensor rows;                           // [T, k] i32: the row of each assignment, -1 if dropped

  std::int64_t kept() const { return token_ids.dim(0); }
  std::int64_t dropped() const { return tokens * top_k - kept(); }
};

// Rows that one expert may keep: max(min_capacity, min(T, ceil(T k factor / E))); a token chooses an expert
// at most once, so that T rows are room for all.
std::int64_t expert_capacity(std::int64_t tokens, std::int64_t top_k, std::int64_t experts, double factor,
                             std::int64_t min_capacity);

// The first token of chunk `index` of `chunks`: a layer's tokens in runs, some of them empty where there are
// fewer tokens than chunks.
inline std::int64_t chunk_begin(std::int64_t tokens, std::int64_t index, std::int64_t chunks) {
  return tokens * index / chunks;
}

// A PFT for each chunk of the tokens, numbered from the chunk's first. What is dropped is decided over all
// tokens, so that it does not depend on the number of chunks. One pass over the assignments to count, one to
// place them: O(T k).
//
// token_ids and rows come from `arena`, the weights from `weights_arena`, since a dispatcher may keep them.
// On a GPU the host waits once, for the counts of all chunks, when all else is done; until then the arrays
// have room for all assignments, of which the arenas keep what is dropped, and some scratch stays in
// ctx.workspace until the caller's scope ends.
std::vector<Pft> build_pfts(const Context& ctx, Arena& arena, Arena& weights_arena, std::int64_t experts,
                            const Tensor& top_experts,  // [T, k] i32 in [0, E)
                            const Tensor& top_weights,  // [T, k] f32
                            std::optional<std::int64_t> capacity, std::int64_t chunks);

// Of all tokens in one, the weights from ctx.workspace: which must last as long as a plan that keeps them
// (Dispatcher::keeps_weights).
inline Pft build_pft(const Context& ctx, Arena& arena, std::int64_t experts, const Tensor& top_experts,
                     const Tensor& top_weights, std::optional<std::int64_t> capacity) {
  return std::move(
      build_pfts(ctx, arena, ctx.workspace, experts, top_experts, top_weights, capacity, 1).front());
}

}  // namespace xmoe
