// Ways to run an MoE layer that must not change what it computes: in chunks, with recomputation, on rows cut
// over a tensor-parallel group (SSMB) or with experts cut over it (TED); and what each of them keeps.
#include <gtest/gtest.h>

#include "comm/topology.h"
#include "distributed/moe_layer_fixture.h"
#include "distributed/support.h"

namespace xmoe {
namespace {

using distributed::tested;

class MoeLayout : public testing::Test {
 protected:
  MoeLayout() { detect_topology(tested(), 2); }
  ~MoeLayout() override { tested().set_nodes({}); }

  static LayerCase layer_case(std::vector<std::int64_t> tokens) {
    return {.name = "layer", .experts_per_rank = 2, .top_k = 3, .tokens = std::move(tokens)};
  }
  // This rank's part of the tokens of all.
  static std::int64_t first_token(const LayerCase& c) {
    std::int64_t first = 0;
    for (int r = 0; r < tested().rank(); ++r) first += c.tokens_of(r);
    return first;
  }
  static void expect_near(const LayerFixture& a, const LayerFixture& b, double tolerance) {
    EXPECT_LT(difference(a.y, b.y), tolerance);
    EXPECT_LT(difference(a.dx, b.dx), tolerance);
    EXPECT_LT(difference(a.weights.experts_w1.grad, b.weights.experts_w1.grad), tolerance);
    EXPECT_LT(difference(a.weights.experts_w2.grad, b.weights.experts_w2.grad), tolerance);
    EXPECT_LT(difference(a.weights.router.grad, b.weights.router.grad), tolerance);
    EXPECT_LT(difference(a.weights.shared_w1.grad, b.weights.shared_w1.grad), tolerance);
  }
};

TEST_F(MoeLayout, ChunksEqualTheWhole) {
  const Mesh mesh(tested(), tested().size());
  // Fewer tokens than chunks on some ranks, none on others, none at all.
  for (const std::vector<std::int64_t>& tokens :
       {std::vector<std::int64_t>{19}, {11, 0, 1, 2}, {0, 3}, {0}}) {
    const LayerCase c = layer_case(tokens);
    for (const auto dispatcher : {DispatcherKind::flat, DispatcherKind::rbd}) {
      for (const std::optional<double> capacity : {std::optional<double>{}, std::optional<double>{0.75}}) {
        MoeConfig config = config_of(c, tested().size());
        config.dispatcher = dispatcher;
        config.capacity_factor = capacity;
        config.min_capacity = 1;
        const std::int64_t own = c.tokens_of(tested().rank());
        LayerFixture whole(c, tested().size(), mesh, first_token(c), own, config);
        whole.forward_backward();
        for (const std::int64_t chunks : {2, 3, 5}) {
          SCOPED_TRACE(fmt::format("{} chunks, capacity {}, {}", chunks, capacity.value_or(0.0),
                                   dispatcher == DispatcherKind::rbd ? "rbd" : "flat"));
          config.overlap_chunks = chunks;
          LayerFixture parts(c, tested().size(), mesh, first_token(c), own, config);
          parts.forward_backward();
          ASSERT_EQ(parts.kept.chunks.size(), static_cast<std::size_t>(chunks));
          EXPECT_EQ(parts.kept.dropped, whole.kept.dropped);
          expect_near(parts, whole, c.tolerance());
        }
      }
    }
  }
}

TEST_F(MoeLayout, PaddedRefusesChunks) {
  const LayerCase c = layer_case({8});
  MoeConfig config = config_of(c, tested().size());
  config.dispatcher = DispatcherKind::padded;
  config.capacity_factor = 1.0;
  config.overlap_chunks = 2;
  const Mesh mesh(tested(), tested().size());
  try {
    const LayerFixture layer(c, tested().size(), mesh, 0, 8, config);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--moe-overlap-chunks 2"), std::string::npos) << error.what();
  }
}

TEST_F(MoeLayout, RecomputationGivesTheSameBits) {
  const Mesh mesh(tested(), tested().size());
  const LayerCase c = layer_case({16});
  for (const auto dispatcher : {DispatcherKind::flat, DispatcherKind::padded, DispatcherKind::rbd}) {
    for (const std::int64_t chunks : {1, 3}) {
      if (dispatcher == DispatcherKind::padded && chunks > 1) continue;
      SCOPED_TRACE(fmt::format("dispatcher {}, {} chunks", static_cast<int>(dispatcher), chunks));
      MoeConfig config = config_of(c, tested().size());
      config.dispatcher = dispatcher;
      config.overlap_chunks = chunks;
      config.capacity_factor = 0.75;
      config.min_capacity = 1;
      const std::int64_t first = 16 * tested().rank();
      LayerFixture kept(c, tested().size(), mesh, first, 16, config);
      LayerFixture again(c, tested().size(), mesh, first, 16, config, {.experts = true, .shared = true});
      kept.forward_backward();
      again.forward_backward();
      expect_near(again, kept, 1e-30);  // the same bits
      std::size_t routing = again.kept.logits.bytes() + again.kept.top_experts.bytes();
      for (const TokenChunk& chunk : again.kept.chunks) routing += chunk.plan.bytes();
      EXPECT_EQ(again.kept.bytes(), routing) << "more than the router's choice is kept";
      EXPECT_LT(again.kept.bytes(), kept.kept.bytes());
      EXPECT_LT(again.saved_bytes, kept.saved_bytes);
    }
  }
}

TEST_F(MoeLayout, ShardsOfRowsAndOfExpertsEqualOneRank) {
  const int n = tested().size();
  constexpr std::int64_t kTokens = 12;  // of a rank
  const LayerCase c = layer_case({kTokens});
  const auto self = make_self_communicator("one", distributed::tested_device());
  const Mesh alone(*self, 1);
  MoeConfig config = config_of(c, n);
  LayerFixture one(c, n, alone, 0, kTokens * n, config);
  one.forward_backward();
  const std::int64_t first = kTokens * tested().rank();
  for (const int tp : {1, 2, 4}) {
    for (const bool ted : {false, true}) {
      for (const std::int64_t chunks : {1, 2}) {
        for (const bool recompute : {false, true}) {
          if (n % tp != 0) continue;
          SCOPED_TRACE(fmt::format("tp {} {} {} chunks {}", tp, ted ? "TED" : "SSMB", chunks, recompute));
          const Mesh mesh(tested(),
                          ParallelLayout{.tensor = tp, .expert = ted ? n / tp : n, .expert_tensor = ted});
          config.overlap_chunks = chunks;
          LayerFixture part(c, n, mesh, first, kTokens, config, {.experts = recompute, .shared = recompute});
          part.forward_backward();
          EXPECT_LT(difference(part.y, one.y.slice(first, first + kTokens)), c.tolerance());
          EXPECT_LT(difference(part.dx, one.dx.slice(first, first + kTokens)), c.tolerance());
          tested().all_reduce(part.weights.router.grad, ReduceOp::sum);
          EXPECT_LT(difference(part.weights.router.grad, one.weights.router.grad), c.tolerance());
          // The part of the experts' gradients that is here, found in the whole by its squares: ranks hold
          // disjoint parts that make up the whole.
          const auto squares = [](const Tensor& t) {
            double sum = 0.0;
            for (const double value : to_doubles(t)) sum += value * value;
            return sum;
          };
          for (const auto member : {&MoeWeights::experts_w1, &MoeWeights::experts_w2}) {
            const double all = tested().all_reduce(squares((part.weights.*member).grad), ReduceOp::sum);
            EXPECT_NEAR(all, squares((one.weights.*member).grad), 1e-4 * all);
          }
        }
      }
    }
  }
}

// Every token chooses k experts that follow each other, so that experts and ranks are evenly loaded: bytes
// are then exact.
void route_evenly(LayerFixture& layer, std::int64_t first_token, std::int64_t experts, std::int64_t top_k) {
  const std::int64_t hidden = layer.x.dim(1);
  std::vector<double> router(static_cast<std::size_t>(experts * hidden), 0.0);
  for (std::int64_t e = 0; e < experts; ++e) router[static_cast<std::size_t>(e * hidden + e / top_k)] = 10.0;
  from_doubles(router, layer.weights.router.value);
  std::vector<double> x(static_cast<std::size_t>(layer.x.numel()), 0.0);
  for (std::int64_t t = 0; t < layer.x.dim(0); ++t)
    x[static_cast<std::size_t>(t * hidden + (first_token + t) % (experts / top_k))] = 1.0;
  from_doubles(x, layer.x);
}

TEST_F(MoeLayout, KeptBytesFallWithTheTensorParallelSize) {
  const int n = tested().size();
  constexpr std::int64_t kSequence = 64;  // tokens of a dp rank's micro-batch
  constexpr std::int64_t kTopK = 2;
  LayerCase c{.name = "bytes", .experts_per_rank = 2, .top_k = kTopK, .hidden = 24, .tokens = {kSequence}};
  const MoeConfig config = config_of(c, n);
  const std::int64_t experts = config.router.experts;
  const std::int64_t width = preactivation_width(c.activation, c.ffn);
  std::int64_t whole = 0;
  for (const int tp : {1, 2, 4}) {
    if (n % tp != 0) continue;
    for (const bool ted : {false, true}) {
      const Mesh mesh(tested(),
                      ParallelLayout{.tensor = tp, .expert = ted ? n / tp : n, .expert_tensor = ted});
      const std::int64_t rows = kSequence / tp;
      LayerFixture part(c, n, mesh, 0, rows, config);
      route_evenly(part, 0, experts, kTopK);
      part.forward_backward();
      const auto bytes = static_cast<std::int64_t>(part.kept.bytes());
      if (tp == 1 && !ted) whole = bytes;
      if (!ted) {
        EXPECT_EQ(bytes * tp, whole) << "tp " << tp;
      } else {
        // Rows routed are those of the whole tp group: only pre-activations are cut. A share of (ep - 1) / ep
        // of the rows changes rank.
        const std::int64_t routed = kSequence * kTopK;
        const std::int64_t crossing = routed - routed / mesh.ep().size();
        const std::int64_t shared = rows * preactivation_width(c.activation, c.shared);
        const std::int64_t activations = 4 * (routed * width / tp + crossing * c.hidden + shared);
        const std::int64_t placing = mesh.ep().size() > 1 ? 4 * routed : 2 * routed;
        const std::int64_t routing = 4 * (rows * experts + rows * kTopK + routed + placing);
        EXPECT_EQ(bytes, activations + routing) << "tp " << tp;
      }
    }
  }
}

}  // namespace
}  // namespace xmoe
