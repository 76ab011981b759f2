#include "comm/row_shards.h"

#include "base/profile.h"

namespace xmoe {

Tensor partial_rows(const Context& ctx, Communicator& group, const Tensor& own) {
  if (group.size() == 1) return own;
  Shape shape = own.shape();
  shape[0] *= group.size();
  return ctx.workspace.tensor(own.dtype(), shape);
}

Tensor gather_row_shards(const Context& ctx, Communicator& group, const Tensor& own) {
  if (group.size() == 1) return own;
  const Tensor all = partial_rows(ctx, group, own);
  const profile::Scope scope(profile::Activity::tensor_parallel);
  group.all_gather(own, all);
  return all;
}

void scatter_row_sums(Communicator& group, const Tensor& partial, const Tensor& own) {
  if (group.size() == 1) return;
  const profile::Scope scope(profile::Activity::tensor_parallel);
  group.reduce_scatter(partial, own);
}

}  // namespace xmoe
