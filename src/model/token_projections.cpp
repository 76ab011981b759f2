#include "model/token_projections.h"

#include <vector>

#include "base/profile.h"
#include "comm/row_shards.h"
#include "ops/embedding/embedding.h"
#include "ops/gemm/gemm.h"

namespace xmoe {

Tensor TokenProjections::own_ids(const Context& ctx, const Tensor& tokens) const {
  std::vector<std::int32_t> id(static_cast<std::size_t>(tokens.dim(0)));
  const auto* token = tokens.data<std::int32_t>();
  for (std::int64_t t = 0; t < tokens.dim(0); ++t) {
    if (token[t] < 0 || token[t] >= words())
      fail(
          "token id {} at position {} is outside the embedding table of {} rows; was the data prepared with "
          "the tokenizer of this model?",
          token[t], t, words());
    const std::int64_t row = token[t] - first_word();
    id[static_cast<std::size_t>(t)] = 0 <= row && row < own_words() ? static_cast<std::int32_t>(row) : -1;
  }
  const Tensor ids = ctx.workspace.tensor(DType::i32, tokens.shape());
  copy_across(Tensor(id.data(), DType::i32, tokens.shape()), ids);
  return ids;
}

void TokenProjections::embed(const Context& ctx, const Tensor& tokens, const Tensor& out) const {
  const profile::Scope activity(profile::Activity::embedding);
  const ArenaScope scope(ctx.workspace);
  const Tensor partial = partial_rows(ctx, tp_, out);
  embedding_forward(ctx, own_ids(ctx, tokens), embedding_.value, partial);
  scatter_row_sums(tp_, partial, out);
}

void TokenProjections::embed_backward(const Context& ctx, const Tensor& tokens, const Tensor& dout) const {
  const profile::Scope activity(profile::Activity::embedding);
  const ArenaScope scope(ctx.workspace);
  const Tensor all = gather_row_shards(ctx, tp_, dout);
  embedding_backward(ctx, own_ids(ctx, tokens), all, embedding_.grad);
}

void TokenProjections::embed_whole(const Context& ctx, const Tensor& tokens, const Tensor& out) const {
  const profile::Scope activity(profile::Activity::embedding);
  const ArenaScope scope(ctx.workspace);
  embedding_forward(ctx, own_ids(ctx, tokens), embedding_.value, out);
  if (tp_.size() > 1) tp_.all_reduce(out, ReduceOp::sum);
}

VocabularySlice TokenProjections::slice(const Context& ctx) const {
  return {.first = first_word(), .words = words(), .merge = [this, &ctx](const Tensor& statistics) {
            const profile::Scope activity(profile::Activity::tensor_parallel);
            const ArenaScope scope(ctx.workspace);
            const Tensor parts =
                ctx.workspace.tensor(DType::f32, {tp_.size(), statistics.dim(0), statistics.dim(1)});
            tp_.all_gather(statistics, parts.reshape({tp_.size() * statistics.dim(0), statistics.dim(1)}));
            merge_statistics(ctx, parts, statistics);
          }};
}

void TokenProjections::losses(const Context& ctx, const Tensor& x, const Tensor& targets,
                              const Tensor& losses, float grad_scale, const Tensor& dx) const {
  const profile::Scope activity(profile::Activity::loss);
  const ArenaScope scope(ctx.workspace);
  const bool gradients = dx.defined();
  const Tensor all_x = gather_row_shards(ctx, tp_, x);
  const Tensor partial = gradients ? partial_rows(ctx, tp_, dx) : dx;
  const VocabularySlice part = slice(ctx);
  linear_cross_entropy(ctx, all_x, output_.value, own_words(), targets, losses, grad_scale, partial,
                       gradients ? output_.grad : Tensor{}, tp_.size() > 1 ? &part : nullptr);
  if (gradients) scatter_row_sums(tp_, partial, dx);
}

void TokenProjections::logits(const Context& ctx, const Tensor& x, const Tensor& out) const {
  const ArenaScope scope(ctx.workspace);
  logits_whole(ctx, gather_row_shards(ctx, tp_, x), out);
}

void TokenProjections::logits_whole(const Context& ctx, const Tensor& x, const Tensor& out) const {
  if (tp_.size() == 1) {
    gemm(ctx, x, output_.value, out, kTimesTransposed);
    return;
  }
  const ArenaScope scope(ctx.workspace);
  const std::int64_t rows = x.dim(0);
  const Tensor own = ctx.workspace.tensor(DType::f32, {rows, own_words()});
  const Tensor parts = ctx.workspace.tensor(DType::f32, {tp_.size() * rows, own_words()});
  gemm(ctx, x, output_.value, own, kTimesTransposed);
  tp_.all_gather(own, parts);
  // [G, rows, V / G] -> [rows, G, V / G]
  for (std::int64_t g = 0; g < tp_.size(); ++g)
    for (std::int64_t r = 0; r < rows; ++r)
      device_copy(parts.device(), parts[g * rows + r].raw(), out.device(),
                  out[r].slice(g * own_words(), (g + 1) * own_words()).raw(), parts[g * rows + r].bytes());
}

}  // namespace xmoe
