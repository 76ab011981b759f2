#include "moe/chunks.h"

#include <algorithm>

namespace xmoe {

TokenChunk token_chunk(std::int64_t tokens, std::int64_t index, std::int64_t chunks) {
  TokenChunk chunk;
  chunk.first = tokens * index / chunks;
  chunk.end = tokens * (index + 1) / chunks;
  return chunk;
}

Pft slice_pft(Arena& arena, const Pft& whole, std::int64_t first, std::int64_t end) {
  Pft part;
  part.tokens = end - first;
  part.top_k = whole.top_k;
  part.per_expert.assign(whole.per_expert.size(), 0);
  part.rows = arena.tensor(DType::i32, {part.tokens, part.top_k});
  // Within an expert rows lie in the order of tokens: those of the chunk are a run.
  const auto* tokens = whole.token_ids.data<std::int32_t>();
  std::vector<std::int64_t> begins(whole.per_expert.size());  // of the runs, in the whole
  std::int64_t begin = 0;
  std::int64_t kept = 0;
  for (std::size_t e = 0; e < begins.size(); ++e) {
    const auto* segment_end = tokens + begin + whole.per_expert[e];
    const auto* from = std::lower_bound(tokens + begin, segment_end, first);
    const auto* to = std::lower_bound(from, segment_end, end);
    begins[e] = from - tokens;
    part.per_expert[e] = to - from;
    kept += to - from;
    begin += whole.per_expert[e];
  }
  part.token_ids = arena.tensor(DType::i32, {kept});
  part.weights = arena.tensor(DType::f32, {kept});
  const auto* slots = whole.rows.data<std::int32_t>() + first * part.top_k;
  auto* rows = part.rows.data<std::int32_t>();
  std::fill_n(rows, part.rows.numel(), -1);
  // A row's slot is found among the slots of its token.
  std::int64_t row = 0;
  for (std::size_t e = 0; e < begins.size(); ++e) {
    for (std::int64_t i = 0; i < part.per_expert[e]; ++i, ++row) {
      const std::int64_t at = begins[e] + i;
      const std::int64_t token = tokens[at] - first;
      part.token_ids.data<std::int32_t>()[row] = static_cast<std::int32_t>(token);
      part.weights.data<float>()[row] = whole.weights.data<float>()[at];
      const auto* slot = slots + token * part.top_k;
      const std::int64_t j = std::find(slot, slot + part.top_k, static_cast<std::int32_t>(at)) - slot;
      rows[token * part.top_k + j] = static_cast<std::int32_t>(row);
    }
  }
  return part;
}

namespace {

// Passages of a chunk, in the order of its stages.
class Pipeline {
 public:
  Pipeline(const Context& ctx, Dispatcher& dispatcher, std::span<TokenChunk> chunks, Arena& arena,
           const Tensor& in, const Tensor& out)
      : ctx_(ctx), dispatcher_(dispatcher), chunks_(chunks), arena_(arena), in_(in), out_(out) {}

  void run(const ChunkCompute& compute) {
    // Passages that an error leaves behind wait for what they started, while its buffers still live.
    std::unique_ptr<Passage> arriving = begin_dispatch(0);
    std::unique_ptr<Passage> returning;
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      const std::unique_ptr<Passage> current = std::move(arriving);
      current->relay();
      if (i + 1 < chunks_.size()) arriving = begin_dispatch(i + 1);
      const RowPair rows = current->end();
      if (returning) returning->relay();
      const RowPair results = compute(i, rows);
      if (returning) returning->end();
      if (!out_.defined()) continue;
      const TokenChunk& c = chunks_[i];
      returning = dispatcher_.begin_combine(ctx_, c.plan, results, out_.slice(c.first, c.end));
    }
    if (!returning) return;
    returning->relay();
    returning->end();
  }

 private:
  std::unique_ptr<Passage> begin_dispatch(std::size_t i) {
    TokenChunk& c = chunks_[i];
    return dispatcher_.begin_dispatch(ctx_, arena_, c.plan, in_.slice(c.first, c.end));
  }

  const Context& ctx_;
  Dispatcher& dispatcher_;
  std::span<TokenChunk> chunks_;
  Arena& arena_;
  const Tensor& in_;
  const Tensor& out_;
};

}  // namespace

void run_chunks(const Context& ctx, Dispatcher& dispatcher, std::span<TokenChunk> chunks, Arena& arena,
                const Tensor& in, const Tensor& out, const ChunkCompute& compute) {
  if (chunks.size() > 1) {
    Pipeline(ctx, dispatcher, chunks, arena, in, out).run(compute);
    return;
  }
  // What was sent is given back at once.
  const RowPair results = compute(0, dispatcher.dispatch(ctx, arena, chunks[0].plan, in));
  if (out.defined()) dispatcher.combine(ctx, chunks[0].plan, results, out);
}

}  // namespace xmoe
