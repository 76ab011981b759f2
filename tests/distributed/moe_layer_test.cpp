// The MoE layer over many ranks against the same layer on one rank: outputs and every gradient, for random
// and adversarial routings; what crosses between ranks; what is kept.
#include <gtest/gtest.h>

#include "distributed/moe_layer_fixture.h"
#include "distributed/support.h"

namespace xmoe {
namespace {

using distributed::SimulatedNodes;
using distributed::tested;

std::vector<LayerCase> cases() {
  return {
      {.name = "even", .experts_per_rank = 4, .top_k = 3, .tokens = {17}},
      {.name = "gelu_without_shared",
       .experts_per_rank = 3,
       .top_k = 2,
       .shared = 0,
       .activation = Activation::gelu,
       .tokens = {9}},
      {.name = "one_expert_per_rank", .experts_per_rank = 1, .top_k = 1, .tokens = {13}},
      {.name = "some_ranks_without_tokens", .experts_per_rank = 2, .top_k = 2, .tokens = {11, 0, 1, 0}},
      {.name = "no_tokens_at_all", .experts_per_rank = 2, .top_k = 2, .tokens = {0}},
      {.name = "everything_to_the_last_expert",
       .experts_per_rank = 2,
       .top_k = 1,
       .tokens = {10, 3},
       .favoured = 1 << 20},
      {.name = "sigmoid",
       .experts_per_rank = 2,
       .top_k = 2,
       .tokens = {6, 9},
       .score = ScoreFunction::sigmoid},
      {.name = "all_experts_chosen", .experts_per_rank = 1, .top_k = 64, .tokens = {5}},
      {.name = "bf16", .experts_per_rank = 3, .top_k = 2, .tokens = {12, 0, 7}, .dtype = DType::bf16},
      {.name = "f16", .experts_per_rank = 3, .top_k = 2, .tokens = {12, 0, 7}, .dtype = DType::f16},
  };
}

class MoeLayerOverRanks : public testing::TestWithParam<LayerCase> {};

constexpr DispatcherKind kPaddingFree[] = {DispatcherKind::flat, DispatcherKind::rbd};

TEST_P(MoeLayerOverRanks, EqualsOneRank) {
  LayerCase c = GetParam();
  const int n = tested().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  MoeConfig config = config_of(c, n);
  std::int64_t total = 0;
  std::int64_t first = 0;
  for (int r = 0; r < n; ++r) {
    if (r == tested().rank()) first = total;
    total += c.tokens_of(r);
  }
  const SimulatedNodes nodes;
  const auto self = make_self_communicator("one", distributed::tested_device());
  const Mesh mesh(tested(), n);
  const Mesh alone(*self, 1);
  LayerFixture one(c, n, alone, 0, total, config);
  one.forward_backward();
  for (const DispatcherKind dispatcher : kPaddingFree) {
    SCOPED_TRACE(fmt::format("dispatcher {}", static_cast<int>(dispatcher)));
    config.dispatcher = dispatcher;
    LayerFixture part(c, n, mesh, first, c.tokens_of(tested().rank()), config);
    part.forward_backward();

    const std::int64_t end = first + part.x.dim(0);
    EXPECT_LT(difference(part.y, one.y.slice(first, end)), c.tolerance());
    EXPECT_LT(difference(part.dx, one.dx.slice(first, end)), c.tolerance());
    // Experts have seen all tokens of all ranks.
    const std::int64_t e = c.experts_per_rank * tested().rank();
    const auto own_experts = [&](const Weight& w) { return w.grad.slice(e, e + c.experts_per_rank); };
    EXPECT_LT(difference(part.weights.experts_w1.grad, own_experts(one.weights.experts_w1)), c.tolerance());
    EXPECT_LT(difference(part.weights.experts_w2.grad, own_experts(one.weights.experts_w2)), c.tolerance());
    // Replicated weights have seen this rank's tokens; their sum is the gradient.
    tested().all_reduce(part.weights.router.grad, ReduceOp::sum);
    EXPECT_LT(difference(part.weights.router.grad, one.weights.router.grad), c.tolerance());
    if (c.shared > 0) {
      tested().all_reduce(part.weights.shared_w1.grad, ReduceOp::sum);
      EXPECT_LT(difference(part.weights.shared_w1.grad, one.weights.shared_w1.grad), c.tolerance());
    }
  }
}

TEST_P(MoeLayerOverRanks, PaddedEqualsFlatWhenNothingIsDropped) {
  LayerCase c = GetParam();
  const int n = tested().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  MoeConfig config = config_of(c, n);
  const Mesh mesh(tested(), n);
  const std::int64_t tokens = 8;  // the same on all ranks: buffers of the padded form are even
  LayerFixture flat(c, n, mesh, 8 * tested().rank(), tokens, config);
  config.capacity_factor =
      static_cast<double>(config.router.experts);  // room for every token in every expert
  config.dispatcher = DispatcherKind::padded;
  LayerFixture padded(c, n, mesh, 8 * tested().rank(), tokens, config);
  flat.forward_backward();
  padded.forward_backward();
  EXPECT_EQ(padded.kept.dropped, 0);
  EXPECT_LT(difference(padded.y, flat.y), c.tolerance());
  EXPECT_LT(difference(padded.dx, flat.dx), c.tolerance());
  EXPECT_LT(difference(padded.weights.experts_w1.grad, flat.weights.experts_w1.grad), c.tolerance());
  EXPECT_LT(difference(padded.weights.experts_w2.grad, flat.weights.experts_w2.grad), c.tolerance());
  EXPECT_LT(difference(padded.weights.router.grad, flat.weights.router.grad), c.tolerance());
}

TEST_P(MoeLayerOverRanks, AllDispatchersDropTheSame) {
  LayerCase c = GetParam();
  const int n = tested().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  MoeConfig config = config_of(c, n);
  config.capacity_factor = 0.75;
  config.min_capacity = 1;
  const SimulatedNodes nodes;
  const Mesh mesh(tested(), n);
  LayerFixture flat(c, n, mesh, 16 * tested().rank(), 16, config);
  flat.forward_backward();
  const std::int64_t capacity = expert_capacity(16, config.router.top_k, config.router.experts, 0.75, 1);
  if (capacity < 16) {
    EXPECT_GT(tested().all_reduce(flat.kept.dropped, ReduceOp::sum), 0);
  }
  for (const DispatcherKind dispatcher : {DispatcherKind::padded, DispatcherKind::rbd}) {
    SCOPED_TRACE(fmt::format("dispatcher {}", static_cast<int>(dispatcher)));
    config.dispatcher = dispatcher;
    LayerFixture other(c, n, mesh, 16 * tested().rank(), 16, config);
    other.forward_backward();
    EXPECT_EQ(flat.kept.dropped, other.kept.dropped);
    // What combine_index numbers is each dispatcher's own; in the padded form a dropped one is marked alike.
    if (dispatcher == DispatcherKind::padded) {
      const std::vector<double> of_flat = to_doubles(flat.kept.chunks[0].plan.combine_index);
      const std::vector<double> of_other = to_doubles(other.kept.chunks[0].plan.combine_index);
      for (std::size_t a = 0; a < of_flat.size(); ++a) ASSERT_EQ(of_flat[a] < 0.0, of_other[a] < 0.0) << a;
    }
    EXPECT_LT(difference(other.y, flat.y), c.tolerance());
    EXPECT_LT(difference(other.dx, flat.dx), c.tolerance());
    EXPECT_LT(difference(other.weights.router.grad, flat.weights.router.grad), c.tolerance());
  }
}

// Rows on the wire are the rows routed to other ranks, in each of the four exchanges of rows, with nothing
// added; besides them one weight and one gradient of it per row, and the counts.
TEST_P(MoeLayerOverRanks, WireCarriesOnlyRowsThatChangeRank) {
  LayerCase c = GetParam();
  const int n = tested().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  const MoeConfig config = config_of(c, n);
  const Mesh mesh(tested(), n);
  LayerFixture part(c, n, mesh, 100 * tested().rank(), c.tokens_of(tested().rank()), config);
  const std::int64_t before = mesh.ep().traffic().bytes_sent;
  part.forward_backward();
  const std::int64_t sent = mesh.ep().traffic().bytes_sent - before;

  std::int64_t leaving = 0;  // assignments to experts of other ranks, read off the routing itself
  for (const double expert : to_doubles(part.kept.top_experts))
    leaving += static_cast<std::int64_t>(expert) / c.experts_per_rank != tested().rank() ? 1 : 0;
  const std::int64_t arriving = part.kept.chunks[0].plan.received();
  const std::int64_t row = c.hidden * static_cast<std::int64_t>(size_of(c.dtype));
  const std::int64_t counts = n > 1 ? (n - 1) * c.experts_per_rank * 8 : 0;
  // Forward: weights and rows go out, results of arrived rows go back. Backward: the same rows, and gradients
  // of the weights go back.
  EXPECT_EQ(sent, 2 * leaving * row + 2 * arriving * row + 4 * leaving + 4 * arriving + counts);
}

// The formula of docs/pft.md.
TEST_P(MoeLayerOverRanks, KeepsWhatTheFormulaSays) {
  LayerCase c = GetParam();
  const int n = tested().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  const MoeConfig config = config_of(c, n);
  const Mesh mesh(tested(), n);
  LayerFixture part(c, n, mesh, 100 * tested().rank(), c.tokens_of(tested().rank()), config);
  part.forward_backward();
  const std::int64_t t = part.x.dim(0);
  const std::int64_t k = config.router.top_k;
  const std::int64_t computed = part.kept.chunks[0].h.dim(0);
  const std::int64_t arriving = part.kept.chunks[0].plan.received();
  const std::int64_t width = preactivation_width(c.activation, c.ffn);
  const std::int64_t shared = c.shared > 0 ? t * preactivation_width(c.activation, c.shared) : 0;
  const std::int64_t activations =
      static_cast<std::int64_t>(size_of(c.dtype)) * (computed * width + arriving * c.hidden + shared);
  // On one rank the experts compute the rows in the order in which they are combined.
  const std::int64_t placing = n > 1 ? t * k + 3 * computed : 2 * computed;
  const std::int64_t routing = 4 * (t * config.router.experts + t * k + t * k + placing);
  EXPECT_EQ(static_cast<std::int64_t>(part.kept.bytes()), activations + routing);
  // The arena agrees, but for the rounding of each tensor to a cache line.
  EXPECT_GE(part.saved_bytes, part.kept.bytes());
  EXPECT_LT(part.saved_bytes, part.kept.bytes() + 11 * 64);
}

std::string padded_refusal(std::int64_t tokens, std::int64_t min_capacity) {
  const LayerCase c{.name = "refused", .experts_per_rank = 2, .top_k = 2, .tokens = {tokens}};
  MoeConfig config = config_of(c, tested().size());
  config.dispatcher = DispatcherKind::padded;
  config.capacity_factor = 1.0;
  config.min_capacity = min_capacity;
  const Mesh mesh(tested(), tested().size());
  LayerFixture layer(c, tested().size(), mesh, 0, tokens, config);
  try {
    layer.forward_backward();
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    return error.what();
  }
  return "";
}

TEST(PaddedDispatcher, RefusesAnotherNumberOfTokensOnOneRank) {
  const bool last = tested().rank() == tested().size() - 1;
  const std::string message = padded_refusal(last ? 9 : 8, 4);
  if (tested().size() == 1) {
    EXPECT_EQ(message, "");
  } else {
    EXPECT_NE(message.find("found 8 to 9"), std::string::npos) << message;
  }
}

TEST(PaddedDispatcher, RefusesMoreRowsThanItsIndicesNumber) {
  const std::string message = padded_refusal(8, std::int64_t{1} << 40);
  EXPECT_NE(message.find("--moe-min-capacity (1099511627776)"), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(Cases, MoeLayerOverRanks, testing::ValuesIn(cases()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace xmoe
