// Dispatchers bring rows to the ranks that hold their experts, and back. The MoE layer uses them in one way
// in both directions of training:
//
//   forward     plan(pft); x_rows = dispatch(x);   y_rows = experts(x_rows);          combine(y_rows) -> y
//   backward               dy_rows = dispatch(dy); dx_rows, dw = experts'(dy_rows);   combine(dx_rows) -> dx;
//   return_weights(dw)
//
// since the transpose of a gather is a sum over the same indices. What a plan keeps is all that backward
// needs besides the rows.
//
//   T tokens here, k experts each, E experts in all, E / ep of them here, H hidden size, B rows of this
//   rank's tokens, R rows that this rank's experts compute, S of them from other ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "device/context.h"
#include "moe/config.h"
#include "moe/pft.h"
#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe {

struct DispatchPlan {
  std::int64_t tokens = 0;  // T
  bool packed =
      false;  // all rows are copied into a received buffer; else rows of own tokens are read from x itself
  Tensor send_tokens;  // rows to send, in order of destination rank: the token each holds; -1: a padding row
                       // of zeros
  std::vector<std::int64_t> send_rows;   // [ep]
  std::vector<std::int64_t> recv_rows;   // [ep]
  Tensor combine_index;                  // [T, k] i32: row of `local` in what combine() takes, -1 if dropped
  std::int64_t local_rows = 0;           // rows of `local` in what combine() takes
  std::vector<std::int64_t> per_expert;  // [E / ep] rows of the local experts; sums to R
  Tensor source, destination;            // [R] i32, as in ExpertRows
  Tensor weights;                        // [R] f32

  ExpertRows expert_rows() const { return {per_expert, source, destination, weights}; }
  std::int64_t received() const;
  std::size_t bytes() const;  // of the tensors above, kept until backward
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;

  // Exchanges counts and weights; the plan's arrays come from `saved`. The one place of a layer where the
  // host waits for counts.
  virtual DispatchPlan plan(const Context& ctx, Arena& saved, const Pft& pft) = 0;
  // x [T, H] -> where the local experts find their rows. Received rows come from `arena`.
  virtual RowPair dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan, const Tensor& x) = 0;
  // Room for the experts' results, to be given to combine().
  virtual RowPair results(Arena& arena, const DispatchPlan& plan, const Tensor& like) = 0;
  // Brings the results back and sums them over the slots of each token, in order: out [T, H].
  virtual void combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results,
                       const Tensor& out) = 0;
  // Brings one float per row back: dweights [R] -> d_top_weights [T, k], 0 where dropped.
  virtual void return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                              const Tensor& d_top_weights) = 0;
};

// `ep`: the ranks that together hold all experts. The flat dispatcher takes any T on each rank. The padded
// one needs a capacity factor, and the same T on all ranks, from which all derive the same capacity: where T
// differs, plan() throws Error on all ranks alike.
std::unique_ptr<Dispatcher> make_flat_dispatcher(Communicator& ep);
std::unique_ptr<Dispatcher> make_padded_dispatcher(Communicator& ep, const MoeConfig& config);
std::unique_ptr<Dispatcher> make_dispatcher(Communicator& ep, const MoeConfig& config);

}  // namespace xmoe
