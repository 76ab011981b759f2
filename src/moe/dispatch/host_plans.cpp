#include "moe/dispatch/host_plans.h"

namespace xmoe {

std::vector<DispatchPlan> HostPlans::plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts,
                                           const Make& make) {
  if (ctx.device().is_cpu()) return make(ctx, saved, pfts);
  const ArenaScope plans_scope(plans_);
  const ArenaScope scope(workspace_);
  const Context host{workspace_};
  const Context device{saved};
  std::vector<Pft> on_host(pfts.begin(), pfts.end());
  for (Pft& pft : on_host)
    for (Tensor* tensor : {&pft.token_ids, &pft.weights, &pft.rows}) *tensor = host.here(*tensor);
  std::vector<DispatchPlan> made = make(host, plans_, on_host);
  for (DispatchPlan& plan : made) {
    const bool shared = plan.destination.raw() == plan.source.raw() && plan.destination.defined();
    DispatchPlan::for_each_tensor(plan, [&](Tensor& tensor) { tensor = device.here(tensor); });
    if (shared) plan.destination = plan.source;
  }
  return made;
}

}  // namespace xmoe
