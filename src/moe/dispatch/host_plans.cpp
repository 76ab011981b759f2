#include "moe/dispatch/host_plans.h"

namespace xmoe {

namespace {

Tensor copied(const Tensor& tensor, Arena& arena) {
  const Tensor copy = arena.tensor(tensor.dtype(), tensor.shape());
  device_copy(tensor.device(), tensor.raw(), copy.device(), copy.raw(), tensor.bytes());
  return copy;
}

}  // namespace

std::vector<DispatchPlan> HostPlans::plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts,
                                           const Make& make) {
  if (ctx.device().is_cpu()) return make(ctx, saved, pfts);
  const ArenaScope plans_scope(plans_);
  const ArenaScope scope(workspace_);
  std::vector<Pft> on_host(pfts.begin(), pfts.end());
  for (Pft& pft : on_host)
    for (Tensor* tensor : {&pft.token_ids, &pft.weights, &pft.rows}) *tensor = copied(*tensor, workspace_);
  std::vector<DispatchPlan> made = make(Context{workspace_}, plans_, on_host);
  for (DispatchPlan& plan : made) {
    const bool shared = plan.destination.raw() == plan.source.raw() && plan.destination.defined();
    DispatchPlan::for_each_tensor(plan, [&](Tensor& tensor) {
      if (tensor.defined()) tensor = copied(tensor, saved);
    });
    if (shared) plan.destination = plan.source;
  }
  return made;
}

}  // namespace xmoe
