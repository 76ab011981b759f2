// What the passages of the dispatchers share.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/profile.h"
#include "moe/dispatch/dispatcher.h"
#include "ops/gather/gather.h"

namespace xmoe {

inline profile::Activity exchange_activity(const Communicator& group) {
  for (int r = 0; r < group.size(); ++r)
    if (group.on_other_node(r)) return profile::Activity::between_nodes;
  return profile::Activity::within_node;
}

// The ops that move rows, of single numbers: out[i] = from[index[i]], 0 where the index is negative, and the
// way back.
inline Tensor column(const Tensor& numbers) { return numbers.reshape({numbers.numel(), 1}); }
inline void gather_numbers(const Context& ctx, const Tensor& from, const Tensor& index, const Tensor& out) {
  gather_rows(ctx, column(from), index.reshape({index.numel()}), column(out));
}
inline void scatter_numbers(const Context& ctx, const Tensor& from, const Tensor& index, const Tensor& out) {
  scatter_rows(ctx, column(from), index, column(out));
}

// Starts an exchange of rows. When activities are timed the ranks meet first, so that the time of a transfer
// is told apart from waiting for those that come later.
inline std::unique_ptr<Transfer> start_timed(Communicator& group, std::span<const ExchangePart> parts) {
  if (profile::enabled()) {
    const profile::Scope scope(profile::Activity::waiting);
    group.barrier();
  }
  const profile::Scope scope(exchange_activity(group));
  return group.start_exchange(parts);
}

inline void wait_timed(const Communicator& group, Transfer* transfer) {
  if (transfer == nullptr) return;
  const profile::Scope scope(exchange_activity(group));
  transfer->wait();
}

// One row of counts to each rank. Ranks come to it when their routing is known: the time goes into waiting.
inline void exchange_counts_timed(Communicator& group, const Tensor& send, const Tensor& recv) {
  const profile::Scope scope(profile::Activity::waiting);
  const std::vector<std::int64_t> each(static_cast<std::size_t>(group.size()), 1);
  group.all_to_all_v(send, each, recv, each);
}

// The way back over one hop.
struct CombinePassage final : Passage {
  CombinePassage(const Context& context, const Communicator& ranks, const Tensor& results,
                 const Tensor& combine_index, const Tensor& output)
      : ctx(context), group(ranks), rows(results), index(combine_index), out(output) {}
  RowPair end() override {
    wait_timed(group, transfer.get());
    const profile::Scope scope(profile::Activity::combine);
    combine_rows(ctx, rows, index, out);
    return {};
  }

  Context ctx;
  const Communicator& group;
  Tensor rows, index, out;
  std::unique_ptr<Transfer> transfer;
};

}  // namespace xmoe
