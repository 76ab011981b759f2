#include "moe/dispatch/dispatcher.h"

#include <numeric>

namespace xmoe {

std::int64_t DispatchPlan::received() const {
  return std::accumulate(recv_rows.begin(), recv_rows.end(), std::int64_t{0});
}

std::size_t DispatchPlan::bytes() const {
  return send_tokens.bytes() + combine_index.bytes() + source.bytes() + destination.bytes() + weights.bytes();
}

RowPair Dispatcher::dispatch(const Context& ctx, Arena& arena, DispatchPlan& plan, const Tensor& x) {
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

std::unique_ptr<Dispatcher> make_dispatcher(Communicator& ep, const MoeConfig& config) {
  return config.dispatcher == DispatcherKind::padded ? make_padded_dispatcher(ep, config)
                                                     : make_flat_dispatcher(ep);
}

}  // namespace xmoe
