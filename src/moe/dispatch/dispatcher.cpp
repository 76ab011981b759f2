#include "moe/dispatch/dispatcher.h"

#include <numeric>

namespace xmoe {

std::int64_t DispatchPlan::received() const {
  return std::accumulate(recv_rows.begin(), recv_rows.end(), std::int64_t{0});
}

std::size_t DispatchPlan::bytes() const {
  return send_tokens.bytes() + combine_index.bytes() + source.bytes() + destination.bytes() + weights.bytes();
}

std::unique_ptr<Dispatcher> make_dispatcher(Communicator& ep, const MoeConfig& config) {
  return config.dispatcher == DispatcherKind::padded ? make_padded_dispatcher(ep, config)
                                                     : make_flat_dispatcher(ep);
}

}  // namespace xmoe
