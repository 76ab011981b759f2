#include "moe/dispatch/dispatcher.h"

#include <numeric>

namespace xmoe {

std::int64_t DispatchPlan::received() const {
  return std::accumulate(recv_rows.begin(), recv_rows.end(), relay.received());
}

std::size_t DispatchPlan::bytes() const {
  std::size_t total = 0;
  for_each_tensor(*this, [&](const Tensor& tensor) { total += tensor.bytes(); });
  return total;
}

RowPair Dispatcher::dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan, const Tensor& x) {
  // Rows that stay in the workspace must outlive what is packed there: begin with them.
  if (&arena == &ctx.workspace) {
    const auto passage = begin_dispatch(ctx, arena, plan, x);
    passage->relay();
    return passage->end();
  }
  const ArenaScope scope(ctx.workspace);
  const auto passage = begin_dispatch(ctx, arena, plan, x);
  passage->relay();
  return passage->end();
}

void Dispatcher::combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results,
                         const Tensor& out) {
  const ArenaScope scope(ctx.workspace);
  const auto passage = begin_combine(ctx, plan, results, out);
  passage->relay();
  passage->end();
}

std::unique_ptr<Dispatcher> make_dispatcher(Communicator& ep, Communicator& ep_node,
                                            const MoeConfig& config) {
  switch (config.dispatcher) {
    case DispatcherKind::flat:
      return make_flat_dispatcher(ep);
    case DispatcherKind::padded:
      return make_padded_dispatcher(ep, config);
    case DispatcherKind::rbd:
      return make_rbd_dispatcher(ep, ep_node);
    case DispatcherKind::automatic:
      break;
  }
  XMOE_CHECK(false, "the automatic choice of a dispatcher is settled before layers are made");
}

}  // namespace xmoe
