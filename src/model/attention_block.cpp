#include "model/attention_block.h"

#include "base/profile.h"
#include "comm/row_shards.h"
#include "ops/gemm/gemm.h"
#include "ops/rope/rope.h"

namespace xmoe {

namespace {
// Queries and keys are rotated, values are not.
void rotate(const Context& ctx, RopeDirection direction, const AttentionShape& shape, const Tensor& qkv,
            const Tensor& table) {
  const Tensor heads = qkv.reshape({qkv.dim(0), shape.heads + 2 * shape.kv_heads, shape.head_dim});
  rope(ctx, direction, shape.heads + shape.kv_heads, heads, table);
}
}  // namespace

void AttentionBlock::attend(const Context& ctx, Arena& saved, const AttentionShape& shape,
                            const Tensor& rope_table, const Tensor& x, AttentionSaved& kept) const {
  kept.qkv = saved.tensor(x.dtype(), {shape.rows(), shape.qkv_width()});
  kept.out = saved.tensor(x.dtype(), {shape.rows(), shape.heads * shape.head_dim});
  kept.lse = saved.tensor(DType::f32, {shape.batch, shape.heads, shape.seq});
  gemm(ctx, x, qkv_.value, kept.qkv, kTimesTransposed);
  rotate(ctx, RopeDirection::forward, shape, kept.qkv, rope_table);
  attention_forward(ctx, shape, kept.qkv, kept.out, kept.lse);
}

void AttentionBlock::forward(const Context& ctx, Arena& saved, const AttentionShape& shape,
                             const Tensor& rope_table, const Tensor& x, const Tensor& y,
                             AttentionSaved& kept) const {
  const profile::Scope activity(profile::Activity::attention);
  if (&saved == &ctx.workspace) {
    attend(ctx, saved, shape, rope_table, gather_row_shards(ctx, tp_, x), kept);
  } else {
    const ArenaScope scope(ctx.workspace);
    attend(ctx, saved, shape, rope_table, gather_row_shards(ctx, tp_, x), kept);
  }
  const ArenaScope scope(ctx.workspace);
  const Tensor partial = partial_rows(ctx, tp_, y);
  gemm(ctx, kept.out, output_.value, partial, kTimesTransposed);
  scatter_row_sums(tp_, partial, y);
}

void AttentionBlock::backward(const Context& ctx, const AttentionShape& shape, const Tensor& rope_table,
                              const Tensor& dy, const Tensor& x, AttentionSaved kept,
                              const Tensor& dx) const {
  const profile::Scope activity(profile::Activity::attention);
  const ArenaScope scope(ctx.workspace);
  const Tensor all_x = gather_row_shards(ctx, tp_, x);  // not kept: it is tp times as large as what is
  const Tensor all_dy = gather_row_shards(ctx, tp_, dy);
  if (!kept.qkv.defined()) attend(ctx, ctx.workspace, shape, rope_table, all_x, kept);
  const Tensor dout = ctx.workspace.tensor(dy.dtype(), kept.out.shape());
  const Tensor dqkv = ctx.workspace.tensor(dy.dtype(), kept.qkv.shape());
  gemm(ctx, all_dy, output_.value, dout, {});
  gemm(ctx, all_dy, kept.out, output_.grad, kAccumulateTransposed);
  attention_backward(ctx, shape, dout, kept.qkv, kept.out, kept.lse, dqkv);
  rotate(ctx, RopeDirection::backward, shape, dqkv, rope_table);
  gemm(ctx, dqkv, all_x, qkv_.grad, kAccumulateTransposed);
  const Tensor partial = partial_rows(ctx, tp_, dx);
  gemm(ctx, dqkv, qkv_.value, partial, {});
  scatter_row_sums(tp_, partial, dx);
}

void AttentionBlock::decode(const Context& ctx, const AttentionShape& shape, const Tensor& rope_table,
                            std::int64_t position, const Tensor& x, const Tensor& keys, const Tensor& values,
                            const Tensor& y) const {
  const profile::Scope activity(profile::Activity::attention);
  const ArenaScope scope(ctx.workspace);
  const std::int64_t query_width = shape.heads * shape.head_dim;
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  const Tensor qkv = ctx.workspace.tensor(x.dtype(), {shape.batch, shape.qkv_width()});
  gemm(ctx, x, qkv_.value, qkv, kTimesTransposed);
  rotate(ctx, RopeDirection::forward, shape, qkv, rope_table.slice(position, position + 1));
  const Tensor q = ctx.workspace.tensor(x.dtype(), {shape.batch, query_width});
  const auto copy_columns = [&](std::int64_t b, std::int64_t from, std::int64_t columns, void* to) {
    const Tensor part = qkv[b].slice(from, from + columns);
    device_copy(ctx.device(), part.raw(), ctx.device(), to, part.bytes());
  };
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    copy_columns(b, 0, query_width, q.slice(b, b + 1).raw());
    copy_columns(b, query_width, kv_width, keys[b].slice(position, position + 1).raw());
    copy_columns(b, query_width + kv_width, kv_width, values[b].slice(position, position + 1).raw());
  }
  const Tensor out = ctx.workspace.tensor(x.dtype(), {shape.batch, query_width});
  attention_decode(ctx, shape, position + 1, q, keys, values, out);
  gemm(ctx, out, output_.value, y, kTimesTransposed);
  if (tp_.size() > 1) tp_.all_reduce(y, ReduceOp::sum);
}

}  // namespace xmoe
