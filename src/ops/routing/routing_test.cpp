#include "ops/routing/routing.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

#include "ops/routing/routing_case.h"
#include "ops/routing/selection.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Routing);

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Routes rows of literals.
struct Routed {
  std::vector<std::int32_t> experts;
  std::vector<float> weights;
  std::vector<float> prob_sums;
  std::vector<std::int64_t> counts;
  float z_sum = -1.0F;
};

template <typename T>
std::vector<T> values_of(const Tensor& tensor) {
  const std::vector<double> all = to_doubles(tensor);
  return {all.begin(), all.end()};
}

Tensor tensor_of(Arena& arena, const std::vector<float>& values, const Shape& shape) {
  const Tensor t = arena.tensor(DType::f32, shape);
  from_doubles(std::vector<double>(values.begin(), values.end()), t);
  return t;
}

Routed route_rows(const Device& device, const RoutingOptions& options, std::int64_t experts,
                  const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  const std::int64_t tokens = static_cast<std::int64_t>(logits.size()) / experts;
  Arena arena(device, MemoryTag::workspace);
  const Tensor chosen = arena.tensor(DType::i32, {tokens, options.top_k});
  const Tensor weights = arena.tensor(DType::f32, {tokens, options.top_k});
  const Tensor prob_sums = arena.tensor(DType::f32, {experts});
  const Tensor counts = arena.tensor(DType::i64, {experts});
  const Tensor z_sum = arena.tensor(DType::f32, {1});
  for (const Tensor& t : {chosen, weights, prob_sums, counts, z_sum})
    device_fill(device, t.raw(), 0xff, t.bytes());
  routing_forward({arena}, options, tensor_of(arena, logits, {tokens, experts}),
                  bias.empty() ? Tensor{} : tensor_of(arena, bias, {experts}), chosen, weights, prob_sums,
                  counts, z_sum);
  return {values_of<std::int32_t>(chosen), values_of<float>(weights), values_of<float>(prob_sums),
          values_of<std::int64_t>(counts), values_of<float>(z_sum)[0]};
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6) << "at " << i;
}

// exp of the logits is 1, 2, 4, 1: probs 1/8, 1/4, 1/2, 1/8 and logsumexp ln 8.
std::vector<float> powers_of_two() { return {0.0F, std::log(2.0F), std::log(4.0F), 0.0F}; }

TEST_P(Routing, SoftmaxBeforeAndAfterTheChoice) {
  const Routed before =
      route_rows(device(), {.top_k = 2, .pre_softmax = true, .scaling_factor = 2.0F}, 4, powers_of_two());
  EXPECT_EQ(before.experts, (std::vector<std::int32_t>{2, 1}));
  expect_near(before.weights, {1.0F, 0.5F});
  expect_near(before.prob_sums, {0.125F, 0.25F, 0.5F, 0.125F});
  EXPECT_EQ(before.counts, (std::vector<std::int64_t>{0, 1, 1, 0}));
  EXPECT_FLOAT_EQ(before.z_sum, std::log(8.0F) * std::log(8.0F));
  const Routed after = route_rows(device(), {.top_k = 2}, 4, powers_of_two());
  EXPECT_EQ(after.experts, before.experts);
  expect_near(after.weights, {2.0F / 3.0F, 1.0F / 3.0F});
  expect_near(after.prob_sums, before.prob_sums);
  const Routed normalised =
      route_rows(device(), {.top_k = 2, .pre_softmax = true, .normalize_topk = true}, 4, powers_of_two());
  expect_near(normalised.weights, after.weights);
}

// Sigmoids 3/4, 1/2, 1/4: the bias lifts the last over the second in the choice, not in its weight.
TEST_P(Routing, BiasChangesTheChoiceOnly) {
  const RoutingOptions options{.top_k = 2, .score_function = ScoreFunction::sigmoid, .normalize_topk = true};
  const std::vector<float> logits = {std::log(3.0F), 0.0F, -std::log(3.0F)};
  expect_near(route_rows(device(), options, 3, logits).weights, {0.6F, 0.4F});
  const Routed biased = route_rows(device(), options, 3, logits, {0.0F, 0.0F, 0.4F});
  EXPECT_EQ(biased.experts, (std::vector<std::int32_t>{0, 2}));
  expect_near(biased.weights, {0.75F, 0.25F});
  expect_near(biased.prob_sums, {0.5F, 1.0F / 3.0F, 1.0F / 6.0F});
}

TEST_P(Routing, GroupsAreRankedByTheBestOrByTheTwoBest) {
  const RoutingOptions options{.top_k = 2, .groups = 3, .topk_groups = 1};
  // Groups (9, 0), (6, 5), (7, 1): the best expert is in the first, the best pair is the second.
  const std::vector<float> logits = {9.0F, 0.0F, 6.0F, 5.0F, 7.0F, 1.0F};
  EXPECT_EQ(route_rows(device(), options, 6, logits).experts, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(route_rows(device(), options, 6, logits, std::vector<float>(6, 0.0F)).experts,
            (std::vector<std::int32_t>{2, 3}));
  RoutingOptions two = options;
  two.topk_groups = 2;
  EXPECT_EQ(route_rows(device(), two, 6, logits).experts, (std::vector<std::int32_t>{0, 4}));
}

TEST_P(Routing, TiesGoToTheLowerExpert) {
  EXPECT_EQ(route_rows(device(), {.top_k = 3}, 20, std::vector<float>(20, 1.5F)).experts,
            (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(route_rows(device(), {.top_k = 3}, 4, {-0.0F, 0.0F, -1.0F, 0.0F}).experts,
            (std::vector<std::int32_t>{0, 1, 3}));
  const RoutingOptions grouped{.top_k = 2, .groups = 3, .topk_groups = 1};
  EXPECT_EQ(route_rows(device(), grouped, 6, {1.0F, 2.0F, 2.0F, 1.0F, 2.0F, 2.0F}).experts,
            (std::vector<std::int32_t>{1, 0}));
}

TEST_P(Routing, NanComesLast) {
  EXPECT_EQ(route_rows(device(), {.top_k = 3}, 4, {kNan, -kInfinity, 3.0F, -kNan}).experts,
            (std::vector<std::int32_t>{2, 1, 0}));
  // Whatever is not a number, the choice is k different experts.
  for (const float odd : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const bool pre_softmax : {false, true}) {
      for (const ScoreFunction f : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
        for (const std::int64_t groups : {1, 3}) {
          const RoutingOptions options{.top_k = 4,
                                       .score_function = f,
                                       .pre_softmax = pre_softmax,
                                       .normalize_topk = true,
                                       .groups = groups,
                                       .topk_groups = groups == 1 ? 1 : 2};
          const Routed r =
              route_rows(device(), options, 6, std::vector<float>(6, odd), std::vector<float>(6, 0.1F));
          const std::set<std::int32_t> distinct(r.experts.begin(), r.experts.end());
          EXPECT_EQ(distinct.size(), 4U);
          EXPECT_GE(*distinct.begin(), 0);
          EXPECT_LT(*distinct.rbegin(), 6);
        }
      }
    }
  }
}

TEST_P(Routing, NoTokensGiveZeroSums) {
  const Routed r = route_rows(device(), {.top_k = 2}, 3, {});
  EXPECT_EQ(r.prob_sums, std::vector<float>(3, 0.0F));
  EXPECT_EQ(r.counts, std::vector<std::int64_t>(3, 0));
  EXPECT_EQ(r.z_sum, 0.0F);
}

TEST_P(Routing, AgreesWithReferenceAndFiniteDifferences) {
  struct Size {
    std::int64_t tokens, experts, k, groups, topk_groups;
  };
  for (const Size& s :
       {Size{0, 4, 2, 1, 1}, Size{1, 1, 1, 1, 1}, Size{7, 3, 3, 1, 1}, Size{5, 6, 1, 1, 1},
        Size{11, 24, 4, 6, 2}, Size{6, 33, 5, 3, 2}, Size{3, 130, 32, 1, 1}, Size{9, 16, 8, 16, 8}}) {
    for (const bool pre_softmax : {false, true}) {
      for (const bool normalize : {false, true}) {
        for (const bool biased : {false, true}) {
          for (const ScoreFunction f : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
            const RoutingOptions options{.top_k = s.k,
                                         .score_function = f,
                                         .pre_softmax = pre_softmax,
                                         .normalize_topk = normalize,
                                         .scaling_factor = 2.5F,
                                         .groups = s.groups,
                                         .topk_groups = s.topk_groups};
            const OpCase op = routing_case(options, s.tokens, s.experts, biased);
            EXPECT_OK(check_forward(op, DType::f32, device()));
            EXPECT_OK(check_backward(op, DType::f32, device()));
          }
        }
      }
    }
  }
}

// Several blocks of tokens, so that partial sums meet.
TEST_P(Routing, SumsAreTheSameAgain) {
  const RoutingOptions options{.top_k = 6, .pre_softmax = true};
  const OpCase op = routing_case(options, 1030, 40, true);
  EXPECT_OK(check_forward(op, DType::f32, device()));
  EXPECT_OK(device().is_cpu() ? check_threads(op, DType::f32) : check_repeated(op, DType::f32, device()));
}

TEST_P(Routing, CountsAreTheChoices) {
  const RoutingOptions options{.top_k = 3};
  constexpr std::int64_t kExperts = 10;
  std::vector<float> logits;
  const Rng rng(5, "logits");
  for (std::uint64_t i = 0; i < 700 * kExperts; ++i) logits.push_back(static_cast<float>(rng.normal(i)));
  const Routed r = route_rows(device(), options, kExperts, logits);
  std::vector<std::int64_t> counts(kExperts, 0);
  for (const std::int32_t e : r.experts) ++counts[static_cast<std::size_t>(e)];
  EXPECT_EQ(r.counts, counts);
}

TEST_P(Routing, WithoutAuxiliaryLossesOnlyTheWeightsCount) {
  for (const bool pre_softmax : {false, true}) {
    for (const ScoreFunction f : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
      OpCase op = routing_case({.top_k = 3, .score_function = f, .pre_softmax = pre_softmax}, 5, 9, false);
      const auto reference = op.reference;
      op.reference = [reference](const Doubles& in, Doubles& out) {
        reference(in, out);
        out[2].assign(out[2].size(), 0.0);
        out[3][0] = 0.0;
      };
      op.backward = [=](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
        routing_backward(ctx, {.top_k = 3, .score_function = f, .pre_softmax = pre_softmax}, in[0], out[0],
                         d_out[1], {}, 0.0F, d_in[0]);
      };
      EXPECT_OK(check_backward(op, DType::f32, device()));
    }
  }
}

TEST_P(Routing, RefusesOptionsThatDoNotFit) {
  EXPECT_THROW(route_rows(device(), {.top_k = 4}, 3, {1.0F, 2.0F, 3.0F}), InvariantError);
  EXPECT_THROW(route_rows(device(), {.top_k = 0}, 3, {1.0F, 2.0F, 3.0F}), InvariantError);
  EXPECT_THROW(route_rows(device(), {.top_k = 1, .groups = 2, .topk_groups = 1}, 3, {1.0F, 2.0F, 3.0F}),
               InvariantError);
  EXPECT_THROW(route_rows(device(), {.top_k = 2, .groups = 3, .topk_groups = 1}, 3, {1.0F, 2.0F, 3.0F}),
               InvariantError);
  EXPECT_THROW(route_rows(device(), {.top_k = 1, .groups = 3, .topk_groups = 4}, 3, {1.0F, 2.0F, 3.0F}),
               InvariantError);
}

TEST(Selection, OrderOfRankedScores) {
  const std::vector<float> falling = {kInfinity, 3.0F,   1e-30F,     0.0F, -1e-30F,
                                      -2.0F,     -1e30F, -kInfinity, kNan};
  for (std::size_t i = 1; i < falling.size(); ++i)
    EXPECT_GT(cpu::ranked(falling[i - 1], 9), cpu::ranked(falling[i], 3)) << i;
  EXPECT_GT(cpu::ranked(1.0F, 3), cpu::ranked(1.0F, 4));
  EXPECT_EQ(cpu::ranked(-0.0F, 3), cpu::ranked(0.0F, 3));
  EXPECT_NE(cpu::ranked(kNan, 0), 0U);
  EXPECT_EQ(cpu::ranked_index(cpu::ranked(-7.0F, 12345)), 12345U);
}

}  // namespace
}  // namespace xmoe
