// The MoE layer over many ranks against the same layer on one rank: outputs and every gradient, for random
// and adversarial routings; what crosses between ranks; what is kept.
#include "moe/layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "comm/mesh.h"
#include "distributed/support.h"
#include "ops/elementwise/elementwise.h"

namespace xmoe {
namespace {

using distributed::world;

struct LayerCase {
  const char* name;
  std::int64_t experts_per_rank;
  std::int64_t top_k;
  std::int64_t hidden = 24;
  std::int64_t ffn = 20;
  std::int64_t shared = 12;
  Activation activation = Activation::swiglu;
  std::vector<std::int64_t> tokens;  // by rank, repeated
  int favoured = -1;                 // expert that every token chooses, or -1
  ScoreFunction score = ScoreFunction::softmax;
  DType dtype = DType::f32;  // of activations and of all weights but the router's

  // f32: sums of at most a few hundred terms in different orders. bf16: such a sum may round to the next of
  // its numbers, 2^-8 apart.
  double tolerance() const { return dtype == DType::f32 ? 2e-5 : 1.0 / 256.0; }

  std::int64_t tokens_of(int rank) const { return tokens[static_cast<std::size_t>(rank) % tokens.size()]; }
};

void PrintTo(const LayerCase& c, std::ostream* out) { *out << c.name; }

// A layer with its weights, gradients and one batch; on `ep` ranks this rank's part of them.
class LayerFixture {
 public:
  LayerFixture(const LayerCase& c, int world_size, const Mesh& mesh, std::int64_t first_token,
               std::int64_t tokens, const MoeConfig& config, const MoeRecompute& recompute = {})
      : case_(c),
        experts_(c.experts_per_rank * world_size),
        local_experts_(experts_ / mesh.ep().size()),
        memory_({}, MemoryTag::parameters),
        saved_({}, MemoryTag::saved),
        workspace_({}, MemoryTag::workspace) {
    const std::int64_t width = preactivation_width(c.activation, c.ffn);
    const std::int64_t first = local_experts_ * mesh.ep().rank();
    weights.router = weight("router", {experts_, c.hidden}, 0, 0.5, DType::f32);
    weights.experts_w1 =
        weight("w1", {local_experts_, width, c.hidden}, first * width * c.hidden, 0.3, c.dtype);
    weights.experts_w2 =
        weight("w2", {local_experts_, c.hidden, c.ffn}, first * c.hidden * c.ffn, 0.3, c.dtype);
    if (c.shared > 0) {
      weights.shared_w1 =
          weight("shared_w1", {1, preactivation_width(c.activation, c.shared), c.hidden}, 0, 0.3, c.dtype);
      weights.shared_w2 = weight("shared_w2", {1, c.hidden, c.shared}, 0, 0.3, c.dtype);
    }
    if (c.favoured >= 0) {
      weights.router_bias = memory_.zeros(DType::f32, {experts_});
      weights.router_bias.data<float>()[c.favoured % experts_] = 100.0F;
    }
    x = filled("x", {tokens, c.hidden}, first_token * c.hidden, 1.0, c.dtype);
    dy = filled("dy", {tokens, c.hidden}, first_token * c.hidden, 1.0, c.dtype);
    y = memory_.zeros(c.dtype, x.shape());
    dx = memory_.zeros(c.dtype, x.shape());
    sums = {memory_.zeros(DType::f32, {experts_}), memory_.zeros(DType::i64, {experts_}),
            memory_.zeros(DType::f32, {1})};
    layer = std::make_unique<MoeLayer>(config, weights, mesh, recompute);
  }

  void forward_backward() {
    const Context ctx{workspace_};
    layer->forward(ctx, saved_, x, y, sums, kept);
    const std::size_t in_use = saved_.in_use();
    saved_bytes = in_use;
    layer->backward(ctx, dy, x, kept, {}, dx);
  }

  MoeWeights weights;
  Tensor x, dy, y, dx;
  RouterSums sums;
  MoeSaved kept;
  std::unique_ptr<MoeLayer> layer;
  std::size_t saved_bytes = 0;

 private:
  Tensor filled(const std::string& name, const Shape& shape, std::int64_t first, double scale, DType dtype) {
    const Tensor t = memory_.tensor(dtype, shape);
    const Rng rng(7, name);
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      const auto value = static_cast<float>(scale * rng.normal(static_cast<std::uint64_t>(first + i)));
      if (dtype == DType::f32) {
        t.data<float>()[i] = value;
      } else {
        t.data<bf16>()[i] = bf16(value);
      }
    }
    return t;
  }
  Weight weight(const std::string& name, const Shape& shape, std::int64_t first, double scale, DType dtype) {
    return {filled(name, shape, first, scale, dtype), memory_.zeros(DType::f32, shape)};
  }

  LayerCase case_;
  std::int64_t experts_, local_experts_;
  Arena memory_, saved_, workspace_;
};

MoeConfig config_of(const LayerCase& c, int world_size) {
  MoeConfig config;
  config.router.experts = c.experts_per_rank * world_size;
  config.router.top_k = std::min(c.top_k, config.router.experts);
  config.router.score_function = c.score;
  config.router.pre_softmax = true;
  config.router.expert_bias = c.favoured >= 0;
  config.ffn_hidden = c.ffn;
  config.shared_ffn_hidden = c.shared;
  config.activation = c.activation;
  return config;
}

double value_at(const Tensor& t, std::int64_t i) {
  return static_cast<double>(t.dtype() == DType::f32 ? t.data<float>()[i]
                                                     : static_cast<float>(t.data<bf16>()[i]));
}

// Largest difference relative to the largest magnitude.
double difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.numel(), b.numel());
  double worst = 0.0;
  double scale = 1e-30;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double d = std::abs(value_at(a, i) - value_at(b, i));
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    scale = std::max(scale, std::abs(value_at(b, i)));
  }
  return worst / scale;
}

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
  };
}

class MoeLayerOverRanks : public testing::TestWithParam<LayerCase> {};

TEST_P(MoeLayerOverRanks, EqualsOneRank) {
  LayerCase c = GetParam();
  const int n = world().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  const MoeConfig config = config_of(c, n);
  std::int64_t total = 0;
  std::int64_t first = 0;
  for (int r = 0; r < n; ++r) {
    if (r == world().rank()) first = total;
    total += c.tokens_of(r);
  }
  const auto self = make_self_communicator();
  const Mesh mesh(world(), n);
  const Mesh alone(*self, 1);
  LayerFixture one(c, n, alone, 0, total, config);
  LayerFixture part(c, n, mesh, first, c.tokens_of(world().rank()), config);
  one.forward_backward();
  part.forward_backward();

  const std::int64_t end = first + part.x.dim(0);
  EXPECT_LT(difference(part.y, one.y.slice(first, end)), c.tolerance());
  EXPECT_LT(difference(part.dx, one.dx.slice(first, end)), c.tolerance());
  // Experts have seen all tokens of all ranks.
  const std::int64_t e = c.experts_per_rank * world().rank();
  EXPECT_LT(
      difference(part.weights.experts_w1.grad, one.weights.experts_w1.grad.slice(e, e + c.experts_per_rank)),
      c.tolerance());
  EXPECT_LT(
      difference(part.weights.experts_w2.grad, one.weights.experts_w2.grad.slice(e, e + c.experts_per_rank)),
      c.tolerance());
  // Replicated weights have seen this rank's tokens; their sum is the gradient.
  world().all_reduce(part.weights.router.grad, ReduceOp::sum);
  EXPECT_LT(difference(part.weights.router.grad, one.weights.router.grad), c.tolerance());
  if (c.shared > 0) {
    world().all_reduce(part.weights.shared_w1.grad, ReduceOp::sum);
    EXPECT_LT(difference(part.weights.shared_w1.grad, one.weights.shared_w1.grad), c.tolerance());
  }
}

TEST_P(MoeLayerOverRanks, PaddedEqualsFlatWhenNothingIsDropped) {
  LayerCase c = GetParam();
  const int n = world().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  MoeConfig config = config_of(c, n);
  const Mesh mesh(world(), n);
  const std::int64_t tokens = 8;  // the same on all ranks: buffers of the padded form are even
  LayerFixture flat(c, n, mesh, 8 * world().rank(), tokens, config);
  config.capacity_factor =
      static_cast<double>(config.router.experts);  // room for every token in every expert
  config.dispatcher = DispatcherKind::padded;
  LayerFixture padded(c, n, mesh, 8 * world().rank(), tokens, config);
  flat.forward_backward();
  padded.forward_backward();
  EXPECT_EQ(padded.kept.dropped, 0);
  EXPECT_LT(difference(padded.y, flat.y), c.tolerance());
  EXPECT_LT(difference(padded.dx, flat.dx), c.tolerance());
  EXPECT_LT(difference(padded.weights.experts_w1.grad, flat.weights.experts_w1.grad), c.tolerance());
  EXPECT_LT(difference(padded.weights.experts_w2.grad, flat.weights.experts_w2.grad), c.tolerance());
  EXPECT_LT(difference(padded.weights.router.grad, flat.weights.router.grad), c.tolerance());
}

TEST_P(MoeLayerOverRanks, FlatAndPaddedDropTheSame) {
  LayerCase c = GetParam();
  const int n = world().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  MoeConfig config = config_of(c, n);
  config.capacity_factor = 0.75;
  config.min_capacity = 1;
  const Mesh mesh(world(), n);
  LayerFixture flat(c, n, mesh, 16 * world().rank(), 16, config);
  config.dispatcher = DispatcherKind::padded;
  LayerFixture padded(c, n, mesh, 16 * world().rank(), 16, config);
  flat.forward_backward();
  padded.forward_backward();
  const std::int64_t capacity = expert_capacity(16, config.router.top_k, config.router.experts, 0.75, 1);
  if (capacity < 16) {
    EXPECT_GT(world().all_reduce(flat.kept.dropped, ReduceOp::sum), 0);
  }
  EXPECT_EQ(flat.kept.dropped, padded.kept.dropped);
  for (std::int64_t a = 0; a < flat.kept.chunks[0].plan.combine_index.numel(); ++a)
    ASSERT_EQ(flat.kept.chunks[0].plan.combine_index.data<std::int32_t>()[a] < 0,
              padded.kept.chunks[0].plan.combine_index.data<std::int32_t>()[a] < 0)
        << a;
  EXPECT_LT(difference(padded.y, flat.y), c.tolerance());
  EXPECT_LT(difference(padded.dx, flat.dx), c.tolerance());
  EXPECT_LT(difference(padded.weights.router.grad, flat.weights.router.grad), c.tolerance());
}

// Rows on the wire are the rows routed to other ranks, in each of the four exchanges of rows, with nothing
// added; besides them one weight and one gradient of it per row, and the counts.
TEST_P(MoeLayerOverRanks, WireCarriesOnlyRowsThatChangeRank) {
  LayerCase c = GetParam();
  const int n = world().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  const MoeConfig config = config_of(c, n);
  const Mesh mesh(world(), n);
  LayerFixture part(c, n, mesh, 100 * world().rank(), c.tokens_of(world().rank()), config);
  const std::int64_t before = mesh.ep().traffic().bytes_sent;
  part.forward_backward();
  const std::int64_t sent = mesh.ep().traffic().bytes_sent - before;

  std::int64_t leaving = 0;  // assignments to experts of other ranks, read off the routing itself
  for (std::int64_t a = 0; a < part.kept.top_experts.numel(); ++a)
    leaving += part.kept.top_experts.data<std::int32_t>()[a] / c.experts_per_rank != world().rank() ? 1 : 0;
  const std::int64_t arriving = part.kept.chunks[0].plan.received();
  const std::int64_t row = c.hidden * static_cast<std::int64_t>(size_of(c.dtype));
  const std::int64_t counts = n > 1 ? (n - 1) * c.experts_per_rank * 8 : 0;
  // Forward: rows and weights go out, results of arrived rows go back. Backward: the same rows, and gradients
  // of the weights go back.
  EXPECT_EQ(sent, 2 * leaving * row + 2 * arriving * row + 4 * leaving + 4 * arriving + counts);
}

// The formula of docs/pft.md.
TEST_P(MoeLayerOverRanks, KeepsWhatTheFormulaSays) {
  LayerCase c = GetParam();
  const int n = world().size();
  if (c.favoured >= 0) c.favoured = static_cast<int>(c.experts_per_rank * n - 1);
  const MoeConfig config = config_of(c, n);
  const Mesh mesh(world(), n);
  LayerFixture part(c, n, mesh, 100 * world().rank(), c.tokens_of(world().rank()), config);
  part.forward_backward();
  const std::int64_t t = part.x.dim(0);
  const std::int64_t k = config.router.top_k;
  const std::int64_t computed = part.kept.chunks[0].h.dim(0);
  const std::int64_t arriving = part.kept.chunks[0].plan.received();
  const std::int64_t leaving = part.kept.chunks[0].plan.send_tokens.dim(0);
  const std::int64_t width = preactivation_width(c.activation, c.ffn);
  const std::int64_t shared = c.shared > 0 ? t * preactivation_width(c.activation, c.shared) : 0;
  const std::int64_t activations =
      static_cast<std::int64_t>(size_of(c.dtype)) * (computed * width + arriving * c.hidden + shared);
  const std::int64_t routing = 4 * (t * config.router.experts + t * k + t * k + 2 * leaving + 3 * computed);
  EXPECT_EQ(static_cast<std::int64_t>(part.kept.bytes()), activations + routing);
  // The arena agrees, but for the rounding of each tensor to a cache line.
  EXPECT_GE(part.saved_bytes, part.kept.bytes());
  EXPECT_LT(part.saved_bytes, part.kept.bytes() + 11 * 64);
}

std::string padded_refusal(std::int64_t tokens, std::int64_t min_capacity) {
  const LayerCase c{.name = "refused", .experts_per_rank = 2, .top_k = 2, .tokens = {tokens}};
  MoeConfig config = config_of(c, world().size());
  config.dispatcher = DispatcherKind::padded;
  config.capacity_factor = 1.0;
  config.min_capacity = min_capacity;
  const Mesh mesh(world(), world().size());
  LayerFixture layer(c, world().size(), mesh, 0, tokens, config);
  try {
    layer.forward_backward();
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    return error.what();
  }
  return "";
}

TEST(PaddedDispatcher, RefusesAnotherNumberOfTokensOnOneRank) {
  const bool last = world().rank() == world().size() - 1;
  const std::string message = padded_refusal(last ? 9 : 8, 4);
  if (world().size() == 1) {
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
