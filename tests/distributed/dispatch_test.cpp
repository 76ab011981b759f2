// Dispatchers against each other and against a reference that needs no communication, for random and
// adversarial routings on simulated nodes; what the two-stage one sends, and keeps.
#include "moe/dispatch/dispatcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "comm/mesh.h"
#include "distributed/dispatch_batch.h"

namespace xmoe {
namespace {

using namespace dispatch_test;

class Dispatch : public testing::TestWithParam<std::tuple<DispatchCase, Nodes>> {
 protected:
  // Making a mesh takes longer than a test: there is one for each arrangement of nodes.
  static Mesh& mesh_on(Nodes nodes) {
    auto& mesh = meshes_[nodes];
    if (!mesh) {
      const ArrangedNodes arranged(nodes);
      mesh = std::make_unique<Mesh>(tested(), tested().size());
    }
    return *mesh;
  }
  static void TearDownTestSuite() { meshes_.clear(); }

  const DispatchCase& routing() const { return std::get<0>(GetParam()); }
  Mesh& mesh_ = mesh_on(std::get<1>(GetParam()));

 private:
  static inline std::map<Nodes, std::unique_ptr<Mesh>> meshes_;
};

TEST_P(Dispatch, FlatEqualsTheReference) {
  const auto flat = make_flat_dispatcher(mesh_.ep());
  Batch batch(routing(), mesh_.ep());
  batch.forward(*flat);
  batch.backward(*flat);
  batch.expect_reference();
}

TEST_P(Dispatch, RbdEqualsTheReference) {
  const auto rbd = make_rbd_dispatcher(mesh_.ep(), mesh_.ep_node());
  Batch batch(routing(), mesh_.ep());
  for (int i = 0; i < 2; ++i) {  // a dispatcher keeps nothing from one batch to the next
    batch.forward(*rbd);
    batch.backward(*rbd);
    batch.expect_reference();
  }
}

// The multiset of what each expert computes: a weight and a row.
std::vector<std::vector<std::vector<double>>> rows_by_expert(const Batch& batch) {
  std::vector<std::vector<std::vector<double>>> experts;
  const ExpertRows rows = batch.plan.expert_rows();
  const std::vector<double> source = to_doubles(rows.source);
  const std::vector<double> weights = to_doubles(rows.weights);
  std::vector<double> values = to_doubles(batch.x_rows.local);
  if (batch.x_rows.remote.defined()) {
    const std::vector<double> remote = to_doubles(batch.x_rows.remote);
    values.insert(values.end(), remote.begin(), remote.end());
  }
  std::size_t r = 0;
  for (const std::int64_t n : rows.per_expert) {
    auto& of_expert = experts.emplace_back();
    for (const std::size_t end = r + static_cast<std::size_t>(n); r < end; ++r) {
      const auto row = values.begin() + static_cast<std::ptrdiff_t>(source[r]) * kHidden;
      of_expert.emplace_back(1, weights[r]).insert(of_expert.back().end(), row, row + kHidden);
    }
    std::sort(of_expert.begin(), of_expert.end());
  }
  return experts;
}

TEST_P(Dispatch, RbdComputesTheRowsOfFlat) {
  Batch flat_batch(routing(), mesh_.ep());
  Batch rbd_batch(routing(), mesh_.ep());
  flat_batch.forward(*make_flat_dispatcher(mesh_.ep()));
  rbd_batch.forward(*make_rbd_dispatcher(mesh_.ep(), mesh_.ep_node()));
  EXPECT_EQ(rows_by_expert(rbd_batch), rows_by_expert(flat_batch));
  for (const Batch* batch : {&flat_batch, &rbd_batch}) {
    const std::vector<double> index = to_doubles(batch->plan.combine_index);
    for (std::int64_t a = 0; a < batch->assignments(); ++a)
      ASSERT_EQ(index[static_cast<std::size_t>(a)] < 0.0, !batch->kept(a));
  }
}

// All batches of a layer share the exchanges of counts and of what describes the rows, as many as a batch on
// its own takes.
TEST_P(Dispatch, PlansOfSeveralBatchesShareTheirExchanges) {
  for (const auto& dispatcher :
       {make_flat_dispatcher(mesh_.ep()), make_rbd_dispatcher(mesh_.ep(), mesh_.ep_node())}) {
    Batch batch(routing(), mesh_.ep());
    const Context ctx{batch.workspace};
    const auto calls = [&] { return mesh_.ep().traffic().calls + mesh_.ep_node().traffic().calls; };
    const std::int64_t begin = calls();
    const DispatchPlan alone = dispatcher->plan(ctx, batch.saved, batch.pft);
    const std::int64_t between = calls();
    EXPECT_LE(between - begin, 3);
    const std::vector<Pft> twice = {batch.pft, batch.pft};
    const auto both = dispatcher->plans(ctx, batch.saved, twice);
    EXPECT_EQ(calls() - between, between - begin);
    ASSERT_EQ(both.size(), 2U);
    for (const DispatchPlan& plan : both) {
      EXPECT_EQ(plan.send_rows, alone.send_rows);
      EXPECT_EQ(plan.recv_rows, alone.recv_rows);
      EXPECT_EQ(plan.relay.crossing.recv_rows, alone.relay.crossing.recv_rows);
      EXPECT_EQ(plan.relay.own.recv_entries, alone.relay.own.recv_entries);
      EXPECT_EQ(plan.relay.relayed.send_rows, alone.relay.relayed.send_rows);
      EXPECT_EQ(plan.local_rows, alone.local_rows);
    }
  }
}

// Two batches under way at once, their hops interleaved as a layer that overlaps them does.
TEST_P(Dispatch, PassagesOverlap) {
  const auto rbd = make_rbd_dispatcher(mesh_.ep(), mesh_.ep_node());
  Batch a(routing(), mesh_.ep());
  Batch b(routing(), mesh_.ep());
  const Context ctx{a.workspace};
  a.plan = rbd->plan(ctx, a.saved, a.pft);
  auto first = rbd->begin_dispatch(ctx, a.saved, a.plan, a.x);
  b.plan = rbd->plan(ctx, b.saved, b.pft);
  first->relay();
  auto second = rbd->begin_dispatch(ctx, b.saved, b.plan, b.x);
  const RowPair a_rows = first->end();
  second->relay();
  const RowPair b_rows = second->end();
  ASSERT_EQ(a.plan.per_expert, b.plan.per_expert);
  ASSERT_EQ(a_rows.remote.dim(0), b_rows.remote.dim(0));
  EXPECT_EQ(to_doubles(a_rows.remote), to_doubles(b_rows.remote));
  EXPECT_EQ(to_doubles(a.plan.source), to_doubles(b.plan.source));
  EXPECT_EQ(to_doubles(a.plan.weights), to_doubles(b.plan.weights));
}

TEST_P(Dispatch, KeepsWhatThePlanSaysAndAllocatesNothingMore) {
  const auto rbd = make_rbd_dispatcher(mesh_.ep(), mesh_.ep_node());
  Batch batch(routing(), mesh_.ep());
  batch.forward(*rbd);
  const std::size_t kept = batch.plan.bytes() + batch.x_rows.remote.bytes();
  EXPECT_GE(batch.saved.in_use(), kept);
  EXPECT_LT(batch.saved.in_use(), kept + 16 * 64);  // each tensor begins on a cache line
  batch.backward(*rbd);
  batch.forward(*rbd);
  const auto allocations = [&] {
    return batch.saved.device_allocations() + batch.workspace.device_allocations();
  };
  const std::int64_t before = allocations();
  for (int i = 0; i < 3; ++i) {
    batch.forward(*rbd);
    batch.backward(*rbd);
  }
  EXPECT_EQ(allocations(), before);
}

// Between nodes a row crosses once per (token, remote node), within a node it goes once to each other rank
// that serves it, and nothing else is sent; before, counts are one message to each rank, and an entry of 8
// bytes for each assignment takes each hop. Counted from the routing alone.
TEST_P(Dispatch, RbdSendsEachRowOnce) {
  Communicator& ep = mesh_.ep();
  Communicator& node = mesh_.ep_node();
  Batch batch(routing(), ep);
  const NodeMap map(ep.nodes(), ep.size());
  const int self = ep.rank();
  std::int64_t crossing = 0;          // distinct (token, remote node)
  std::int64_t crossing_entries = 0;  // assignments of remote nodes
  std::int64_t within = 0;            // distinct (token, rank) that are reached within their node
  std::int64_t remote_pairs = 0;      // distinct (token, rank) with another rank
  for (std::int64_t t = 0; t < batch.tokens; ++t) {
    std::set<int> ranks;
    std::set<int> nodes;
    for (std::int64_t a = t * batch.top_k; a < (t + 1) * batch.top_k; ++a) {
      if (!batch.kept(a)) continue;
      ranks.insert(batch.rank_of(a));
      nodes.insert(map.node(batch.rank_of(a)));
      crossing_entries += map.node(batch.rank_of(a)) != map.node(self) ? 1 : 0;
    }
    ranks.erase(self);
    nodes.erase(map.node(self));
    crossing += static_cast<std::int64_t>(nodes.size());
    remote_pairs += static_cast<std::int64_t>(ranks.size());
  }
  within = remote_pairs - crossing;  // each node's first rank is reached by crossing

  const auto rbd = make_rbd_dispatcher(ep, node);
  const auto sent = [](const Communicator& group) { return group.traffic().bytes_sent; };
  const std::int64_t row = kHidden * static_cast<std::int64_t>(size_of(batch.x.dtype()));
  const Context ctx{batch.workspace};
  std::int64_t before = sent(ep);
  const auto rounds = [](const Communicator& group) { return group.traffic().calls; };
  const std::int64_t hops = map.nodes() > 1 ? 1 : 0;
  const std::int64_t hops_within = node.size() > 1 ? 1 : 0;
  std::int64_t rounds_before = rounds(ep);
  std::int64_t rounds_before_within = rounds(node);
  std::int64_t before_within = sent(node);
  batch.plan = rbd->plan(ctx, batch.saved, batch.pft);
  EXPECT_EQ(rounds(ep) - rounds_before, 1 + hops);
  EXPECT_EQ(rounds(node) - rounds_before_within, hops_within);
  const std::int64_t counts = std::int64_t{8} * (4 + 4 * map.largest()) * (ep.size() - 1);
  EXPECT_EQ(sent(ep) - before, counts + crossing_entries * 8);
  const auto total = [&](std::int64_t value) { return ep.all_reduce(value, ReduceOp::sum); };
  std::int64_t within_entries = 0;
  for (const auto* leg : {&batch.plan.relay.own, &batch.plan.relay.relayed})
    within_entries += leg->sent_entries();
  EXPECT_EQ(sent(node) - before_within, within_entries * 8);
  for (int r = 0; r < ep.size(); ++r) {
    if (map.node(r) == map.node(self)) {
      EXPECT_EQ(batch.plan.relay.crossing.send_rows[static_cast<std::size_t>(r)], 0);
    }
  }
  before = sent(ep);
  before_within = sent(node);
  rounds_before = rounds(ep);
  rounds_before_within = rounds(node);
  const std::int64_t between_before = ep.traffic().bytes_between_nodes;
  batch.x_rows = rbd->dispatch(ctx, batch.saved, batch.plan, batch.x);
  EXPECT_EQ(sent(ep) - before, crossing * row);
  EXPECT_EQ(rounds(ep) - rounds_before, hops);
  EXPECT_EQ(rounds(node) - rounds_before_within, hops_within);
  EXPECT_EQ(ep.traffic().bytes_between_nodes - between_before, sent(ep) - before);
  EXPECT_EQ(node.traffic().bytes_between_nodes, 0);
  EXPECT_EQ(total(sent(node) - before_within), total(within) * row);
  EXPECT_EQ(total(batch.x_rows.remote.dim(0)), total(remote_pairs));
  EXPECT_EQ(batch.x_rows.remote.dim(0), batch.plan.received());

  // Every other passage moves the same rows, and nothing besides.
  const std::int64_t all_crossing = total(crossing);
  const std::int64_t all_crossing_entries = total(crossing_entries);
  const std::int64_t all_within = total(within);
  const std::int64_t all_within_entries = total(within_entries);
  const auto expect_sent = [&](const char* what, std::int64_t crossed, std::int64_t stayed, auto&& passage) {
    const std::int64_t before_all = sent(ep);
    const std::int64_t before_node = sent(node);
    passage();
    const std::int64_t between_nodes = sent(ep) - before_all;
    const std::int64_t within_node = sent(node) - before_node;
    EXPECT_EQ(total(between_nodes), crossed) << what;
    EXPECT_EQ(total(within_node), stayed) << what;
  };
  const RowPair results = rbd->results(batch.workspace, batch.plan, batch.y);
  device_fill(tested_device(), results.local.raw(), 0, results.local.bytes());
  expect_sent("dispatch in backward", all_crossing * row, all_within * row,
              [&] { rbd->dispatch(ctx, batch.workspace, batch.plan, batch.dy); });
  expect_sent("combine", all_crossing * row, all_within * row,
              [&] { rbd->combine(ctx, batch.plan, results, batch.y); });
  // A gradient of 4 bytes for each assignment, on each hop back.
  const Tensor dweights = batch.workspace.zeros(DType::f32, {batch.plan.expert_rows().total()});
  expect_sent("gradients of weights", all_crossing_entries * 4, all_within_entries * 4,
              [&] { rbd->return_weights(ctx, batch.plan, dweights, batch.d_weights); });
}

INSTANTIATE_TEST_SUITE_P(Cases, Dispatch,
                         testing::Combine(testing::ValuesIn(cases()),
                                          testing::Values(Nodes::unknown, Nodes::of_1, Nodes::of_2,
                                                          Nodes::of_3, Nodes::of_4, Nodes::in_turns)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "_nodes_" +
                                  name_of(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace xmoe
