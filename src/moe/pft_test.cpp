// PFT against a plain restatement of its definition, on random and adversarial routings.
#include "moe/pft.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace xmoe {
namespace {

struct Routing {
  std::int64_t tokens, top_k, experts;
  std::vector<std::int32_t> chosen;
  std::vector<float> weights;
};

struct NaivePft {
  std::vector<std::int32_t> token_ids, rows;
  std::vector<std::int64_t> per_expert;
  std::vector<float> weights;
};

// For every expert: list its assignments, keep the heaviest, sort them by token. O(E T k), nothing shared
// with the code under test.
NaivePft naive_pft(const Routing& r, std::optional<std::int64_t> capacity) {
  NaivePft out;
  out.rows.assign(r.chosen.size(), -1);
  for (std::int32_t e = 0; e < r.experts; ++e) {
    std::vector<std::size_t> mine;
    for (std::size_t a = 0; a < r.chosen.size(); ++a)
      if (r.chosen[a] == e) mine.push_back(a);
    std::stable_sort(mine.begin(), mine.end(),
                     [&](std::size_t a, std::size_t b) { return r.weights[a] > r.weights[b]; });
    if (capacity && mine.size() > static_cast<std::size_t>(*capacity))
      mine.resize(static_cast<std::size_t>(*capacity));
    std::sort(mine.begin(), mine.end());
    out.per_expert.push_back(static_cast<std::int64_t>(mine.size()));
    for (const auto a : mine) {
      out.rows[a] = static_cast<std::int32_t>(out.token_ids.size());
      out.token_ids.push_back(static_cast<std::int32_t>(a / static_cast<std::size_t>(r.top_k)));
      out.weights.push_back(r.weights[a]);
    }
  }
  return out;
}

Pft build(Arena& arena, Routing& r, std::optional<std::int64_t> capacity) {
  const Shape shape = {r.tokens, r.top_k};
  return build_pft(arena, r.experts, Tensor(r.chosen.data(), DType::i32, shape),
                   Tensor(r.weights.data(), DType::f32, shape), capacity);
}

void expect_equal(Routing& r, std::optional<std::int64_t> capacity) {
  Arena arena({}, MemoryTag::saved);
  const Pft pft = build(arena, r, capacity);
  const NaivePft naive = naive_pft(r, capacity);
  EXPECT_EQ(pft.per_expert, naive.per_expert);
  ASSERT_EQ(pft.kept(), static_cast<std::int64_t>(naive.token_ids.size()));
  EXPECT_EQ(pft.dropped(), static_cast<std::int64_t>(std::count(naive.rows.begin(), naive.rows.end(), -1)));
  EXPECT_TRUE(std::equal(naive.token_ids.begin(), naive.token_ids.end(), pft.token_ids.data<std::int32_t>()));
  EXPECT_TRUE(std::equal(naive.weights.begin(), naive.weights.end(), pft.weights.data<float>()));
  EXPECT_TRUE(std::equal(naive.rows.begin(), naive.rows.end(), pft.rows.data<std::int32_t>()));
}

Routing random_routing(std::uint64_t seed, std::int64_t tokens, std::int64_t top_k, std::int64_t experts,
                       bool ties) {
  Routing r{tokens, top_k, experts, {}, {}};
  const Rng rng(seed, "routing");
  std::uint64_t counter = 0;
  std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::size_t e = 0; e < order.size(); ++e) order[e] = static_cast<std::int32_t>(e);
    for (std::int64_t j = 0; j < top_k; ++j) {
      const auto pick =
          static_cast<std::size_t>(j) + rng.below(counter++, static_cast<std::uint64_t>(experts - j));
      std::swap(order[static_cast<std::size_t>(j)], order[pick]);
      r.chosen.push_back(order[static_cast<std::size_t>(j)]);
      const double u = rng.uniform(counter++);
      r.weights.push_back(static_cast<float>(ties ? std::floor(u * 3.0) / 3.0 : u));
    }
  }
  return r;
}

TEST(Pft, EqualsTheDefinitionOnRandomRoutings) {
  std::uint64_t seed = 0;
  for (const std::int64_t tokens : {0, 1, 2, 7, 64, 333}) {
    for (const auto& [top_k, experts] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {1, 5}, {2, 3}, {4, 4}, {6, 64}}) {
      for (const bool ties : {false, true}) {
        Routing r = random_routing(++seed, tokens, top_k, experts, ties);
        expect_equal(r, std::nullopt);
        for (const std::int64_t capacity : {0, 1, 3, 17, 1000}) expect_equal(r, capacity);
      }
    }
  }
}

TEST(Pft, OneExpertGetsEverything) {
  Routing r{5, 1, 4, {2, 2, 2, 2, 2}, {0.1F, 0.5F, 0.5F, 0.9F, 0.2F}};
  expect_equal(r, std::nullopt);
  Arena arena({}, MemoryTag::saved);
  const Pft pft = build(arena, r, 2);
  // 0.9 and, of the tied 0.5, the earlier token.
  ASSERT_EQ(pft.kept(), 2);
  EXPECT_EQ(pft.token_ids.data<std::int32_t>()[0], 1);
  EXPECT_EQ(pft.token_ids.data<std::int32_t>()[1], 3);
}

TEST(Pft, NegativeWeightsAreKeptWhileThereIsRoom) {
  Routing r{2, 2, 2, {0, 1, 0, 1}, {-1.0F, -2.0F, -3.0F, -4.0F}};
  expect_equal(r, 2);
}

TEST(Pft, NanWeightsAreDroppedFirst) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Routing r{3, 1, 1, {0, 0, 0}, {nan, 0.5F, nan}};
  Arena arena({}, MemoryTag::saved);
  const Pft pft = build(arena, r, 1);
  ASSERT_EQ(pft.kept(), 1);
  EXPECT_EQ(pft.token_ids.data<std::int32_t>()[0], 1);
}

TEST(Pft, RefusesAnExpertThatDoesNotExist) {
  Routing r{1, 1, 4, {4}, {1.0F}};
  Arena arena({}, MemoryTag::saved);
  EXPECT_THROW(build(arena, r, std::nullopt), InvariantError);
}

TEST(Pft, RefusesMoreAssignmentsThanItsIndicesNumber) {
  // Refused before anything is read: there is no memory behind these shapes.
  const Shape shape = {std::int64_t{1} << 30, 2};
  Arena arena({}, MemoryTag::saved);
  std::int32_t chosen = 0;
  float weight = 0.0F;
  EXPECT_THROW(
      build_pft(arena, 4, Tensor(&chosen, DType::i32, shape), Tensor(&weight, DType::f32, shape), {}),
      InvariantError);
  EXPECT_EQ(arena.reserved(), 0U);
}

TEST(Pft, CapacityIsAtMostTheTokens) {
  EXPECT_EQ(expert_capacity(100, 4, 32, 64.0, 4), 100);
  EXPECT_EQ(expert_capacity(100, 4, 32, 1e300, 4), 100);
  EXPECT_EQ(expert_capacity(100, 4, 32, 1e300, 200), 200);
}

TEST(Pft, CapacityIsRoundedUpAndBoundedBelow) {
  EXPECT_EQ(expert_capacity(100, 4, 32, 1.0, 4), 13);   // 12.5
  EXPECT_EQ(expert_capacity(100, 4, 32, 1.25, 4), 16);  // 15.6
  EXPECT_EQ(expert_capacity(1, 4, 32, 1.0, 4), 4);
  EXPECT_EQ(expert_capacity(0, 4, 32, 1.0, 0), 0);
}

}  // namespace
}  // namespace xmoe
