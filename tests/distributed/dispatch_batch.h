// A batch of tokens with its routing, random or adversarial, on simulated nodes, and what a rank on its own
// would make of it: for the tests of the dispatchers.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "comm/topology.h"
#include "distributed/support.h"
#include "moe/dispatch/dispatcher.h"
#include "moe/dispatch/node_map.h"
#include "support/compare.h"
#include "support/op_case.h"

namespace xmoe::dispatch_test {

using distributed::tested;
using distributed::tested_device;

inline constexpr std::int64_t kHidden = 10;

enum class Routing : std::uint8_t { random, one_expert, last_node, own_rank, all };

struct DispatchCase {
  const char* name;
  std::int64_t experts_per_rank;
  std::int64_t top_k;
  std::vector<std::int64_t> tokens;  // by rank, repeated
  Routing routing = Routing::random;
  std::int64_t capacity = 0;  // of an expert, of one rank's tokens; 0: nothing is dropped
  DType dtype = DType::f32;
};

// How the ranks sit on nodes: consecutive ones (the last node may have fewer), in turns on two nodes, or as
// when nobody knows.
enum class Nodes : std::uint8_t { unknown, of_1, of_2, of_3, of_4, in_turns };

inline std::string name_of(Nodes nodes) {
  constexpr std::array<const char*, 6> kNames = {"unknown", "of_1", "of_2", "of_3", "of_4", "in_turns"};
  return kNames[static_cast<std::size_t>(nodes)];
}

// The nodes of the world for the life of this object.
class ArrangedNodes {
 public:
  explicit ArrangedNodes(Nodes nodes) {
    if (nodes == Nodes::unknown) return;
    if (nodes == Nodes::in_turns) {
      std::vector<int> names;
      for (int r = 0; r < tested().size(); ++r) names.push_back(r % 2);
      tested().set_nodes(names);
    } else {
      detect_topology(tested(), static_cast<int>(nodes));
    }
  }
  ~ArrangedNodes() { tested().set_nodes({}); }
  ArrangedNodes(const ArrangedNodes&) = delete;
  ArrangedNodes& operator=(const ArrangedNodes&) = delete;
};

// What an expert stands in for: y = w f(e) x, with a factor for each column, so that a row which went astray
// shows.
inline double factor(std::int64_t expert, std::int64_t column) {
  return Rng(3, "factor").uniform(static_cast<std::uint64_t>(expert * kHidden + column)) + 0.5;
}

class Batch {
 public:
  explicit Batch(const DispatchCase& c, Communicator& ep) : case_(c), ep_(ep) {
    experts = c.experts_per_rank * ep.size();
    tokens = c.tokens[static_cast<std::size_t>(ep.rank()) % c.tokens.size()];
    top_k = std::min(c.routing == Routing::all ? experts : c.top_k, experts);
    const NodeMap map(ep.nodes(), ep.size());
    if (c.routing == Routing::one_expert) top_k = 1;
    if (c.routing == Routing::last_node)
      top_k = std::min<std::int64_t>(
          top_k, c.experts_per_rank * static_cast<std::int64_t>(map.on(map.nodes() - 1).size()));
    if (c.routing == Routing::own_rank) top_k = std::min(top_k, c.experts_per_rank);
    const std::string mine = " of rank " + std::to_string(ep.rank());
    const Rng rng(5, "routing" + mine);
    std::uint64_t counter = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<std::int64_t> from = allowed(map);
      for (std::int64_t j = 0; j < top_k; ++j) {
        const auto pick = static_cast<std::ptrdiff_t>(rng.below(counter++, from.size()));
        chosen.push_back(from[static_cast<std::size_t>(pick)]);
        from.erase(from.begin() + pick);
        weights_.push_back(static_cast<double>(static_cast<float>(rng.uniform(counter++) + 0.1)));
      }
    }
    const Tensor top_experts = memory_.tensor(DType::i32, {tokens, top_k});
    const Tensor top_weights = memory_.tensor(DType::f32, {tokens, top_k});
    from_doubles(std::vector<double>(chosen.begin(), chosen.end()), top_experts);
    from_doubles(weights_, top_weights);
    pft = build_pft({memory_}, memory_, experts, top_experts, top_weights,
                    c.capacity > 0 ? std::optional(c.capacity) : std::nullopt);
    rows_ = to_doubles(pft.rows);
    x = memory_.tensor(c.dtype, {tokens, kHidden});
    dy = memory_.tensor(c.dtype, {tokens, kHidden});
    fill_random(x, normal(1.0), Rng(5, "x" + mine));
    fill_random(dy, normal(1.0), Rng(5, "dy" + mine));
    y = memory_.tensor(c.dtype, x.shape());
    dx = memory_.tensor(c.dtype, x.shape());
    d_weights = memory_.tensor(DType::f32, {tokens, top_k});
  }

  std::int64_t assignments() const { return tokens * top_k; }
  bool kept(std::int64_t a) const { return rows_[static_cast<std::size_t>(a)] >= 0.0; }
  std::int64_t expert_of(std::int64_t a) const { return chosen[static_cast<std::size_t>(a)]; }
  int rank_of(std::int64_t a) const { return static_cast<int>(expert_of(a) / case_.experts_per_rank); }

  void forward(Dispatcher& dispatcher) {
    const Context ctx{workspace};
    saved.clear();
    plan = dispatcher.plan(ctx, saved, pft);
    x_rows = dispatcher.dispatch(ctx, saved, plan, x);
    const ArenaScope scope(workspace);
    const RowPair results = dispatcher.results(workspace, plan, y);
    compute(x_rows, results, {});
    dispatcher.combine(ctx, plan, results, y);
  }

  void backward(Dispatcher& dispatcher) {
    const Context ctx{workspace};
    const ArenaScope scope(workspace);
    const RowPair dy_rows = dispatcher.dispatch(ctx, workspace, plan, dy);
    const RowPair results = dispatcher.results(workspace, plan, dx);
    const Tensor dweights = workspace.tensor(DType::f32, {plan.expert_rows().total()});
    compute(dy_rows, results, dweights);
    dispatcher.combine(ctx, plan, results, dx);
    from_doubles(std::vector<double>(static_cast<std::size_t>(assignments()), NAN), d_weights);
    dispatcher.return_weights(ctx, plan, dweights, d_weights);
  }

  // What a rank on its own finds, in double.
  void expect_reference() const {
    // f32: a few dozen terms in another order. 16 bits: as they are stored at each expert and at each of up
    // to two relays, sums of terms of either sign.
    const double tolerance = case_.dtype == DType::f32 ? 1e-5 : 0.03;
    const std::vector<double> inputs = to_doubles(x);
    const std::vector<double> outputs = to_doubles(y);
    const std::vector<double> upstream = to_doubles(dy);
    const std::vector<double> gradients = to_doubles(dx);
    const std::vector<double> d_top_weights = to_doubles(d_weights);
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < kHidden; ++h) {
        double gain = 0.0;
        for (std::int64_t a = t * top_k; a < (t + 1) * top_k; ++a)
          if (kept(a)) gain += weights_[static_cast<std::size_t>(a)] * factor(expert_of(a), h);
        const auto i = static_cast<std::size_t>(t * kHidden + h);
        ASSERT_NEAR(outputs[i], gain * inputs[i], tolerance * (std::abs(gain * inputs[i]) + 0.1))
            << "token " << t << " column " << h;
        ASSERT_NEAR(gradients[i], gain * upstream[i], tolerance * (std::abs(gain * upstream[i]) + 0.1))
            << "token " << t << " column " << h;
      }
      for (std::int64_t a = t * top_k; a < (t + 1) * top_k; ++a) {
        double expected = 0.0;
        for (std::int64_t h = 0; h < kHidden && kept(a); ++h) {
          const auto i = static_cast<std::size_t>(t * kHidden + h);
          expected += factor(expert_of(a), h) * inputs[i] * upstream[i];
        }
        ASSERT_NEAR(d_top_weights[static_cast<std::size_t>(a)], expected, 1e-5 * (std::abs(expected) + 10.0))
            << "assignment " << a;
      }
    }
  }

  std::int64_t experts = 0, tokens = 0, top_k = 0;
  std::vector<std::int64_t> chosen;  // [T k]: experts
  Tensor x, dy, y, dx, d_weights;
  Pft pft;
  DispatchPlan plan;
  RowPair x_rows;
  Arena saved{tested_device(), MemoryTag::saved}, workspace{tested_device(), MemoryTag::workspace};

 private:
  std::vector<std::int64_t> allowed(const NodeMap& map) const {
    std::vector<std::int64_t> experts_allowed;
    for (std::int64_t e = 0; e < experts; ++e) {
      const int rank = static_cast<int>(e / case_.experts_per_rank);
      const bool allow = case_.routing == Routing::one_expert  ? e == experts - 1
                         : case_.routing == Routing::last_node ? map.node(rank) == map.nodes() - 1
                         : case_.routing == Routing::own_rank  ? rank == ep_.rank()
                                                               : true;
      if (allow) experts_allowed.push_back(e);
    }
    return experts_allowed;
  }

  // Both matrices of a pair on the host, one behind the other.
  static std::vector<double> values_of(const RowPair& pair) {
    std::vector<double> values = to_doubles(pair.local);
    if (!pair.remote.defined()) return values;
    const std::vector<double> remote = to_doubles(pair.remote);
    values.insert(values.end(), remote.begin(), remote.end());
    return values;
  }

  // Results w f x; with dweights, <f x, the row of forward> as well.
  void compute(const RowPair& in, const RowPair& out, const Tensor& dweights) const {
    const ExpertRows rows = plan.expert_rows();
    const std::vector<double> from = values_of(in);
    const std::vector<double> x_from = values_of(x_rows);
    const std::vector<double> weights = to_doubles(rows.weights);
    std::vector<double> to = values_of(out);
    std::vector<double> products;
    const auto indices = [](const Tensor& index) {
      return index.defined() ? to_doubles(index) : std::vector<double>();
    };
    const std::vector<double> source = indices(rows.source);
    const std::vector<double> destination = indices(rows.destination);
    const auto first_of = [](const std::vector<double>& index, std::size_t r) {
      return static_cast<std::size_t>(kHidden) * (index.empty() ? r : static_cast<std::size_t>(index[r]));
    };
    std::size_t r = 0;
    for (std::size_t e = 0; e < rows.per_expert.size(); ++e) {
      const std::int64_t expert = ep_.rank() * case_.experts_per_rank + static_cast<std::int64_t>(e);
      for (std::int64_t i = 0; i < rows.per_expert[e]; ++i, ++r) {
        products.push_back(0.0);
        for (std::size_t h = 0; h < kHidden; ++h) {
          const double value = factor(expert, static_cast<std::int64_t>(h)) * from[first_of(source, r) + h];
          to[first_of(destination, r) + h] = weights[r] * value;
          products.back() += value * x_from[first_of(source, r) + h];
        }
      }
    }
    ASSERT_EQ(static_cast<std::int64_t>(r), rows.total());
    const auto local = static_cast<std::ptrdiff_t>(out.local.numel());
    from_doubles(std::vector<double>(to.begin(), to.begin() + local), out.local);
    if (out.remote.defined()) from_doubles(std::vector<double>(to.begin() + local, to.end()), out.remote);
    if (dweights.defined()) from_doubles(products, dweights);
  }

  DispatchCase case_;
  Communicator& ep_;
  std::vector<double> weights_, rows_;  // [T k]
  Arena memory_{tested_device(), MemoryTag::parameters};
};

inline std::vector<DispatchCase> cases() {
  return {
      {.name = "even", .experts_per_rank = 4, .top_k = 6, .tokens = {17}},
      {.name = "one_expert_per_rank", .experts_per_rank = 1, .top_k = 3, .tokens = {13, 8}},
      {.name = "top_1", .experts_per_rank = 3, .top_k = 1, .tokens = {9}},
      {.name = "everything_to_one_expert",
       .experts_per_rank = 2,
       .top_k = 1,
       .tokens = {10, 3},
       .routing = Routing::one_expert},
      {.name = "everything_to_one_node",
       .experts_per_rank = 3,
       .top_k = 4,
       .tokens = {7, 12},
       .routing = Routing::last_node},
      {.name = "nothing_leaves",
       .experts_per_rank = 3,
       .top_k = 2,
       .tokens = {8},
       .routing = Routing::own_rank},
      {.name = "all_experts_chosen",
       .experts_per_rank = 2,
       .top_k = 0,
       .tokens = {5},
       .routing = Routing::all},
      {.name = "some_ranks_without_tokens", .experts_per_rank = 2, .top_k = 2, .tokens = {0, 11, 1, 0}},
      {.name = "no_tokens_at_all", .experts_per_rank = 2, .top_k = 2, .tokens = {0}},
      {.name = "dropping", .experts_per_rank = 2, .top_k = 4, .tokens = {20, 5}, .capacity = 2},
      {.name = "bf16", .experts_per_rank = 3, .top_k = 5, .tokens = {12, 0, 7}, .dtype = DType::bf16},
      {.name = "f16", .experts_per_rank = 3, .top_k = 5, .tokens = {12, 0, 7}, .dtype = DType::f16},
  };
}

}  // namespace xmoe::dispatch_test
