// The tokens of an MoE layer in chunks, each with a plan of its own, so that the rows of one travel while the
// experts compute another.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "moe/dispatch/dispatcher.h"
#include "moe/pft.h"

namespace xmoe {

struct TokenChunk {
  std::int64_t first = 0;  // tokens [first, end) of the layer
  std::int64_t end = 0;
  DispatchPlan plan;
  RowPair x;  // rows of the experts' input; only `remote` (or a padded buffer) is memory of its own
  Tensor h;   // [R, I']
};

// Tokens of chunk `index` of `chunks`: a run; some are empty where there are fewer tokens than chunks.
TokenChunk token_chunk(std::int64_t tokens, std::int64_t index, std::int64_t chunks);

// Computes the rows that the experts of this rank have of a chunk, and says where the results are.
using ChunkCompute = std::function<RowPair(std::size_t chunk, const RowPair& rows)>;

// The rows of all chunks to their experts, through `compute`, and their results back. The first hop of chunk
// i + 1 is under way while chunk i is computed, and so is the last hop of the results of chunk i - 1. With
// one chunk this is dispatch, compute, combine. Rows received come from `arena`; ctx.workspace holds what is
// sent until the caller's scope ends.
void run_chunks(const Context& ctx, Dispatcher& dispatcher, std::span<TokenChunk> chunks, Arena& arena,
                const Tensor& in,   // [T, H]
                const Tensor& out,  // [T, H]; undefined: nothing goes back, and compute's result is ignored
                const ChunkCompute& compute);

}  // namespace xmoe
