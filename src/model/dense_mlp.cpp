#include "model/dense_mlp.h"

#include "base/profile.h"
#include "comm/row_shards.h"

namespace xmoe {

void DenseMlp::forward(const Context& ctx, const Tensor& x, const Tensor& h, const Tensor& y) const {
  const profile::Scope activity(profile::Activity::dense);
  const ArenaScope scope(ctx.workspace);
  const Tensor all_x = gather_row_shards(ctx, tp_, x);
  const Tensor partial = partial_rows(ctx, tp_, y);
  const std::int64_t all[] = {all_x.dim(0)};
  grouped_mlp_forward(ctx, activation_, {all, {}, {}, {}}, {all_x, {}}, w1_.value, w2_.value, h,
                      {partial, {}});
  scatter_row_sums(tp_, partial, y);
}

void DenseMlp::backward(const Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& h,
                        const Tensor& dx) const {
  const profile::Scope activity(profile::Activity::dense);
  const ArenaScope scope(ctx.workspace);
  const Tensor all_x = gather_row_shards(ctx, tp_, x);
  const Tensor all_dy = gather_row_shards(ctx, tp_, dy);
  const std::int64_t all[] = {all_x.dim(0)};
  const ExpertRows rows{all, {}, {}, {}};
  Tensor preactivation = h;
  if (!preactivation.defined()) {
    preactivation = ctx.workspace.tensor(x.dtype(), {all_x.dim(0), preactivations()});
    grouped_mlp_forward(ctx, activation_, rows, {all_x, {}}, w1_.value, w2_.value, preactivation, {});
  }
  const Tensor partial = partial_rows(ctx, tp_, dx);
  grouped_mlp_backward(ctx, activation_, rows, {all_dy, {}}, {all_x, {}}, w1_.value, w2_.value, preactivation,
                       {partial, {}}, {}, w1_.grad, w2_.grad, Accumulation::add);
  scatter_row_sums(tp_, partial, dx);
}

void DenseMlp::decode(const Context& ctx, const Tensor& x, const Tensor& y) const {
  const profile::Scope activity(profile::Activity::dense);
  const ArenaScope scope(ctx.workspace);
  const Tensor h = ctx.workspace.tensor(x.dtype(), {x.dim(0), preactivations()});
  const std::int64_t all[] = {x.dim(0)};
  grouped_mlp_forward(ctx, activation_, {all, {}, {}, {}}, {x, {}}, w1_.value, w2_.value, h, {y, {}});
  if (tp_.size() > 1) tp_.all_reduce(y, ReduceOp::sum);
}

}  // namespace xmoe
