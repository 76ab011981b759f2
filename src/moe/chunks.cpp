#include "moe/chunks.h"

#include <utility>

namespace xmoe {

TokenChunk token_chunk(std::int64_t tokens, std::int64_t index, std::int64_t chunks) {
  TokenChunk chunk;
  chunk.first = chunk_begin(tokens, index, chunks);
  chunk.end = chunk_begin(tokens, index + 1, chunks);
  return chunk;
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
