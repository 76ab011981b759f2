// Dispatchers bring rows to the ranks that hold their experts, and back. The MoE layer uses them in one way
// in both directions of training:
//
//   forward    plan = plans(pft)
//              x_rows = dispatch(x);    y_rows = experts(x_rows);         combine(y_rows) -> y
//   backward   dy_rows = dispatch(dy);  dx_rows, dw = experts'(dy_rows);  combine(dx_rows) -> dx
//              return_weights(dw)
//
// since the transpose of a gather is a sum over the same indices. What a plan keeps is all that backward
// needs besides the rows.
//
// Both have up to two hops (over all ranks, within a node), and what is between them is done by relay(), so
// that a caller with several batches of tokens keeps the wires busy while it computes:
//
//   begin(1); for i: passage[i]->relay(); begin(i + 1); rows = passage[i]->end(); experts(rows) ...
//
// T tokens here, k experts each, E experts in all, E / ep of them here, H hidden size, B rows of this rank's
// tokens, R rows that this rank's experts compute, S of them from other ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "device/context.h"
#include "moe/config.h"
#include "moe/dispatch/relay_plan.h"
#include "moe/pft.h"
#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe {

struct DispatchPlan {
  std::int64_t tokens = 0;  // T
  // All rows are copied into a received buffer; else rows of own tokens are read from x itself.
  bool packed = false;
  // Rows of this rank's tokens, as `local` of what combine() takes has them, in order of destination rank.
  std::int64_t local_rows = 0;
  // Those that stay here, [own_begin, own_begin + own_rows); all others are sent. Packed: none.
  std::int64_t own_begin = 0, own_rows = 0;
  Tensor row_tokens;  // [local_rows] i32: the token of each; -1: a padding row. Undefined if none is sent.
  std::vector<std::int64_t> send_rows;  // [ep]
  std::vector<std::int64_t> recv_rows;  // [ep]
  // [T, k] i32: where among what comes back an assignment's gradient of its weight is (and, but for rbd, its
  // result: the row of `local` in what combine() takes); -1 if dropped.
  Tensor combine_index;
  std::vector<std::int64_t> per_expert;  // [E / ep] rows of the local experts; sums to R
  Tensor source, destination;            // [R] i32, as in ExpertRows
  Tensor weights;                        // [R] f32
  RelayPlan relay;                       // of the two-stage dispatcher, in the place of send_* and recv_*

  ExpertRows expert_rows() const { return {per_expert, source, destination, weights}; }
  std::int64_t sent() const { return local_rows - own_rows; }
  std::int64_t received() const;  // rows that come from other ranks (packed: from all)
  std::size_t bytes() const;      // of the tensors above, kept until backward

  // Calls f(tensor) for each; where destination is source, once for both.
  template <typename Plan, typename F>
  static void for_each_tensor(Plan& plan, F&& f) {
    f(plan.row_tokens);
    f(plan.combine_index);
    if (plan.destination.raw() != plan.source.raw()) f(plan.destination);
    f(plan.source);
    f(plan.weights);
    RelayPlan::for_each_tensor(plan.relay, f);
  }
};

// Rows under way. Buffers come from the arenas given to begin_*, whose scopes must outlive it; one that is
// given up waits for what was started.
class Passage {
 public:
  virtual ~Passage() = default;
  virtual void relay() {}  // waits for the first hop and starts the second, where there are two
  // Waits for the last hop. The rows that a dispatch brought; of a combine nothing, and its output is
  // written.
  virtual RowPair end() = 0;
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;

  // A plan for each batch of tokens of a layer, of which all ranks have equally many. Exchanges the counts of
  // all at once, then the weights or what else describes the rows: the one place of a layer where the host
  // waits. A plan's arrays come from `saved`.
  virtual std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts) = 0;
  DispatchPlan plan(const Context& ctx, Arena& saved, const Pft& pft) {
    return std::move(plans(ctx, saved, {&pft, 1}).front());
  }
  // Whether plans keep token_ids and rows of their PFT, which must then come from `saved`.
  virtual bool keeps_pft() const { return false; }
  virtual bool keeps_weights() const { return false; }  // the same of the PFT's weights
  // x [T, H] -> where the local experts find their rows. Received rows come from `arena`, buffers to send
  // from ctx.workspace. `plan` stays where it is until the passage has ended.
  virtual std::unique_ptr<Passage> begin_dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan,
                                                  const Tensor& x) = 0;
  // Room for the experts' results, to be given to combine() with the same `out` [T, H], which may be that
  // room: then nothing else is to be read from it or written to it in between.
  virtual RowPair results(Arena& arena, const DispatchPlan& plan, const Tensor& out) = 0;
  // Brings the results back and sums them over the slots of each token, in order: out [T, H].
  virtual std::unique_ptr<Passage> begin_combine(const Context& ctx, const DispatchPlan& plan,
                                                 const RowPair& results, const Tensor& out) = 0;
  // Brings one float per row back: dweights [R] -> d_top_weights [T, k], 0 where dropped.
  virtual void return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                              const Tensor& d_top_weights) = 0;

  // The same without anything in between. What dispatch() took from ctx.workspace is given back.
  RowPair dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan, const Tensor& x);
  void combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results, const Tensor& out);
};

// `ep`: the ranks that together hold all experts. The flat dispatcher takes any T on each rank. The padded
// one needs a capacity factor, and the same T on all ranks, from which all derive the same capacity: where T
// differs, plan() throws Error on all ranks alike.
std::unique_ptr<Dispatcher> make_flat_dispatcher(Communicator& ep);
std::unique_ptr<Dispatcher> make_padded_dispatcher(Communicator& ep, const MoeConfig& config);
// Redundancy-bypassing dispatch (X-MoE, SC'25, section 4.2) in two stages over the nodes of ep (ep.nodes()).
// `ep_node`: the ranks of ep on this rank's node, in the same order.
std::unique_ptr<Dispatcher> make_rbd_dispatcher(Communicator& ep, Communicator& ep_node);
// The one that config.dispatcher names; `automatic` must be settled before (dispatch/choice.h).
std::unique_ptr<Dispatcher> make_dispatcher(Communicator& ep, Communicator& ep_node, const MoeConfig& config);

}  // namespace xmoe
