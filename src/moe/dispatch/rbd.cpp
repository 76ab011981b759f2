// Redundancy-bypassing dispatch (X-MoE, SC'25, section 4.2): a row crosses to another node once, whatever
// number of its experts are there, and goes on within the node to the ranks that serve it. Combine and
// backward take the same legs the other way, with sums where rows had been copied: one row crosses back.
//
// The paper passes a row on once per expert; here once per rank, since the experts' op reads any number of
// its rows from one row received.
#include "moe/dispatch/host_plans.h"
#include "moe/dispatch/passage.h"
#include "moe/dispatch/rbd_plan.h"
#include "ops/elementwise/elementwise.h"

namespace xmoe {

namespace {

class RbdDispatcher final : public Dispatcher {
 public:
  RbdDispatcher(Communicator& ep, Communicator& ep_node) : planner_(ep, ep_node), ep_(ep), node_(ep_node) {}

  std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts) override {
    const profile::Scope timed(profile::Activity::pft);
    return host_plans_.plans(ctx, saved, pfts,
                             [this](const Context& host, Arena& arena, std::span<const Pft> on_host) {
                               return planner_.plans(host, arena, on_host);
                             });
  }
  std::unique_ptr<Passage> begin_dispatch(const Context& ctx, Arena& arena, const DispatchPlan& plan,
                                          const Tensor& x) override;
  RowPair results(Arena& arena, const DispatchPlan& plan, const Tensor& out) override {
    return {arena.tensor(out.dtype(), {plan.local_rows, out.dim(1)}), {}};
  }
  std::unique_ptr<Passage> begin_combine(const Context& ctx, const DispatchPlan& plan, const RowPair& results,
                                         const Tensor& out) override;
  void return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                      const Tensor& d_top_weights) override;

 private:
  struct Outward;
  struct Homeward;
  // Both decided alike by all ranks of the group concerned.
  bool crosses() const { return planner_.crosses(); }
  bool relays() const { return planner_.relays(); }

  RbdPlanner planner_;
  HostPlans host_plans_;
  Communicator& ep_;
  Communicator& node_;
};

void pack(const Context& ctx, const Tensor& from, const Tensor& rows, const Tensor& to) {
  const profile::Scope scope(profile::Activity::gather);
  gather_rows(ctx, from, rows, to);
}

void sum(const Context& ctx, const Tensor& rows, const Tensor& index, const Tensor& out) {
  const profile::Scope scope(profile::Activity::combine);
  combine_rows(ctx, rows, index, out);
}

// Rows on their way to the experts.
struct RbdDispatcher::Outward final : Passage {
  Outward(RbdDispatcher& dispatcher, const Context& context, const DispatchPlan& routing)
      : d(dispatcher), ctx(context), legs(routing.relay) {}

  void relay() override {
    wait_timed(d.ep_, crossing.get());
    if (!d.relays()) return;
    const std::int64_t crossed = legs.crossing.received();
    const std::int64_t own_end = crossed + legs.own.received();
    pack(ctx, rows.remote.slice(0, crossed), legs.relayed.rows, relayed_rows);
    const ExchangePart parts[] = {
        {own_rows, legs.own.send_rows, rows.remote.slice(crossed, own_end), legs.own.recv_rows},
        {relayed_rows, legs.relayed.send_rows, rows.remote.slice(own_end, rows.remote.dim(0)),
         legs.relayed.recv_rows}};
    within = start_timed(d.node_, parts);
  }

  RowPair end() override {
    wait_timed(d.node_, within.get());
    return rows;
  }

  RbdDispatcher& d;
  Context ctx;
  const RelayPlan& legs;
  RowPair rows;
  Tensor own_rows, relayed_rows;  // to be sent within the node
  std::unique_ptr<Transfer> crossing, within;
};

std::unique_ptr<Passage> RbdDispatcher::begin_dispatch(const Context& ctx, Arena& arena,
                                                       const DispatchPlan& plan, const Tensor& x) {
  const RelayPlan& legs = plan.relay;
  auto passage = std::make_unique<Outward>(*this, ctx, plan);
  const auto rows_of = [&](Arena& from, std::int64_t n) { return from.tensor(x.dtype(), {n, x.dim(1)}); };
  passage->rows = {x, rows_of(arena, legs.received())};
  const Tensor crossing_rows = rows_of(ctx.workspace, legs.crossing.sent());
  passage->own_rows = rows_of(ctx.workspace, legs.own.sent());
  passage->relayed_rows = rows_of(ctx.workspace, legs.relayed.sent());
  if (crosses()) {
    pack(ctx, x, legs.crossing.rows, crossing_rows);
    const ExchangePart part{crossing_rows, legs.crossing.send_rows,
                            passage->rows.remote.slice(0, legs.crossing.received()), legs.crossing.recv_rows};
    passage->crossing = start_timed(ep_, {&part, 1});
  }
  pack(ctx, x, legs.own.rows, passage->own_rows);  // while the others cross
  return passage;
}

// Results on their way home.
struct RbdDispatcher::Homeward final : Passage {
  Homeward(RbdDispatcher& dispatcher, const Context& context, const DispatchPlan& routing,
           const Tensor& all_results, const Tensor& output)
      : d(dispatcher), ctx(context), plan(routing), results(all_results), out(output) {}

  void relay() override {
    wait_timed(d.node_, within.get());
    if (!d.crosses()) return;
    const RelayPlan& legs = plan.relay;
    sum(ctx, results, legs.relay_index, crossing_rows);
    const ExchangePart part{crossing_rows, legs.crossing.recv_rows,
                            results.slice(results.dim(0) - legs.crossing.sent(), results.dim(0)),
                            legs.crossing.send_rows};
    crossing = start_timed(d.ep_, {&part, 1});
  }

  RowPair end() override {
    wait_timed(d.ep_, crossing.get());
    sum(ctx, results, plan.relay.own_index, out);
    return {};
  }

  RbdDispatcher& d;
  Context ctx;
  const DispatchPlan& plan;
  Tensor results, out;
  Tensor back_rows, crossing_rows;  // sums to be sent
  std::unique_ptr<Transfer> within, crossing;
};

std::unique_ptr<Passage> RbdDispatcher::begin_combine(const Context& ctx, const DispatchPlan& plan,
                                                      const RowPair& results, const Tensor& out) {
  const RelayPlan& legs = plan.relay;
  auto passage = std::make_unique<Homeward>(*this, ctx, plan, results.local, out);
  const auto rows_of = [&](std::int64_t n) { return ctx.workspace.tensor(out.dtype(), {n, out.dim(1)}); };
  passage->back_rows = rows_of(legs.back_index.dim(0));
  passage->crossing_rows = rows_of(legs.crossing.received());
  if (!relays()) return passage;
  sum(ctx, results.local, legs.back_index, passage->back_rows);
  const std::int64_t own_begin = plan.source.dim(0);
  const std::int64_t relayed_begin = own_begin + legs.own.sent();
  const std::int64_t split = legs.own.received();
  const Tensor& back = passage->back_rows;
  const ExchangePart parts[] = {
      {back.slice(0, split), legs.own.recv_rows, results.local.slice(own_begin, relayed_begin),
       legs.own.send_rows},
      {back.slice(split, back.dim(0)), legs.relayed.recv_rows,
       results.local.slice(relayed_begin, relayed_begin + legs.relayed.sent()), legs.relayed.send_rows}};
  passage->within = start_timed(node_, parts);
  return passage;
}

void RbdDispatcher::return_weights(const Context& ctx, const DispatchPlan& plan, const Tensor& dweights,
                                   const Tensor& d_top_weights) {
  const profile::Scope timed(profile::Activity::combine);
  const ArenaScope scope(ctx.workspace);
  const RelayPlan& legs = plan.relay;
  const std::int64_t computed = dweights.dim(0);
  const std::int64_t relayed_begin = computed + legs.own.sent_entries();
  const std::int64_t crossing_begin = relayed_begin + legs.relayed.sent_entries();
  const auto floats = [&](std::int64_t n) { return ctx.workspace.tensor(DType::f32, {n}); };
  const Tensor all = floats(crossing_begin + legs.crossing.sent_entries());
  copy(ctx, dweights, all.slice(0, computed));
  const auto pick = [&](const Tensor& index) {
    const Tensor picked = floats(index.dim(0));
    gather_numbers(ctx, all, index, picked);
    return picked;
  };
  if (relays()) {
    const Tensor back = pick(legs.back_weight);
    const std::int64_t split = legs.own.received_entries();
    const ExchangePart parts[] = {{back.slice(0, split), legs.own.recv_entries,
                                   all.slice(computed, relayed_begin), legs.own.send_entries},
                                  {back.slice(split, back.dim(0)), legs.relayed.recv_entries,
                                   all.slice(relayed_begin, crossing_begin), legs.relayed.send_entries}};
    const auto within = start_timed(node_, parts);
    wait_timed(node_, within.get());
  }
  if (crosses()) {
    const ExchangePart part{pick(legs.relay_weight), legs.crossing.recv_entries,
                            all.slice(crossing_begin, all.dim(0)), legs.crossing.send_entries};
    const auto crossing = start_timed(ep_, {&part, 1});
    wait_timed(ep_, crossing.get());
  }
  gather_numbers(ctx, all, plan.combine_index, d_top_weights);
}

}  // namespace

std::unique_ptr<Dispatcher> make_rbd_dispatcher(Communicator& ep, Communicator& ep_node) {
  return std::make_unique<RbdDispatcher>(ep, ep_node);
}

}  // namespace xmoe
