// PFT against a plain restatement of its definition, on random and adversarial routings.
#include "moe/pft.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Pfts);

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

template <typename T>
Tensor on_device(Arena& arena, const std::vector<T>& values, const Shape& shape) {
  const Tensor tensor = arena.tensor(dtype_of<T>::value, shape);
  device_copy({}, values.data(), arena.device(), tensor.raw(), tensor.bytes());
  return tensor;
}

std::vector<Pft> build(Arena& arena, const Routing& r, std::optional<std::int64_t> capacity,
                       std::int64_t chunks = 1) {
  const Shape shape = {r.tokens, r.top_k};
  return build_pfts({arena}, arena, arena, r.experts, on_device(arena, r.chosen, shape),
                    on_device(arena, r.weights, shape), capacity, chunks);
}

template <typename T>
std::vector<double> doubles(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

void expect_equal(const Device& device, const Routing& r, std::optional<std::int64_t> capacity) {
  Arena arena(device, MemoryTag::saved);
  const Pft pft = build(arena, r, capacity).front();
  const NaivePft naive = naive_pft(r, capacity);
  EXPECT_EQ(pft.per_expert, naive.per_expert);
  EXPECT_EQ(pft.kept(), static_cast<std::int64_t>(naive.token_ids.size()));
  EXPECT_EQ(pft.dropped(), static_cast<std::int64_t>(std::count(naive.rows.begin(), naive.rows.end(), -1)));
  EXPECT_EQ(to_doubles(pft.token_ids), doubles(naive.token_ids));
  EXPECT_EQ(to_doubles(pft.weights), doubles(naive.weights));
  EXPECT_EQ(to_doubles(pft.rows), doubles(naive.rows));
}

// The assignments of a run of tokens that the whole keeps, as a routing of its own would have them.
void expect_chunks(const Device& device, const Routing& r, std::optional<std::int64_t> capacity,
                   std::int64_t chunks) {
  Arena arena(device, MemoryTag::saved);
  const std::vector<Pft> parts = build(arena, r, capacity, chunks);
  const NaivePft whole = naive_pft(r, capacity);
  ASSERT_EQ(parts.size(), static_cast<std::size_t>(chunks));
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < chunks; ++i) {
    const Pft& part = parts[static_cast<std::size_t>(i)];
    const std::int64_t first = chunk_begin(r.tokens, i, chunks);
    ASSERT_EQ(first, end);
    end = first + part.tokens;
    std::vector<double> token_ids;
    std::vector<double> weights;
    std::vector<double> rows(static_cast<std::size_t>(part.tokens * r.top_k), -1.0);
    std::vector<std::int64_t> per_expert;
    std::size_t row = 0;  // of the whole
    for (const std::int64_t count : whole.per_expert) {
      per_expert.push_back(0);
      for (const std::size_t segment_end = row + static_cast<std::size_t>(count); row < segment_end; ++row) {
        const std::int64_t token = whole.token_ids[row];
        if (token < first || token >= end) continue;
        ++per_expert.back();
        const auto slots = whole.rows.begin() + token * r.top_k;
        const auto slot = std::find(slots, slots + r.top_k, static_cast<std::int32_t>(row)) - slots;
        rows[static_cast<std::size_t>((token - first) * r.top_k + slot)] =
            static_cast<double>(token_ids.size());
        token_ids.push_back(static_cast<double>(token - first));
        weights.push_back(static_cast<double>(whole.weights[row]));
      }
    }
    EXPECT_EQ(part.per_expert, per_expert);
    EXPECT_EQ(to_doubles(part.token_ids), token_ids);
    EXPECT_EQ(to_doubles(part.weights), weights);
    EXPECT_EQ(to_doubles(part.rows), rows);
  }
  EXPECT_EQ(end, r.tokens);
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

TEST_P(Pfts, EqualTheDefinitionOnRandomRoutings) {
  std::vector<std::int64_t> capacities = {0, 1, 3, 17, 1000};
  if (is_emulated(device())) capacities = {3};
  std::uint64_t seed = 0;
  for (const std::int64_t tokens : {0, 1, 2, 7, 64, 333}) {
    for (const auto& [top_k, experts] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {1, 5}, {2, 3}, {4, 4}, {6, 64}}) {
      for (const bool ties : {false, true}) {
        const Routing r = random_routing(++seed, tokens, top_k, experts, ties);
        expect_equal(device(), r, std::nullopt);
        for (const std::int64_t capacity : capacities) expect_equal(device(), r, capacity);
      }
    }
  }
}

// Beyond what a block, a warp and a pass of the marking take; a number of experts that is no power of two.
TEST_P(Pfts, EqualTheDefinitionOnManyAssignments) {
  for (const auto& [top_k, experts] : {std::pair<std::int64_t, std::int64_t>{1, 2}, {8, 260}}) {
    const Routing r = random_routing(3, 4500, top_k, experts, true);
    expect_equal(device(), r, std::nullopt);
    expect_equal(device(), r, 130);
    expect_equal(device(), r, 1500);
  }
}

TEST_P(Pfts, ChunksCutTheRowsOfTheWhole) {
  for (const std::int64_t tokens : {0, 1, 3, 40, 700})
    for (const std::int64_t chunks : {1, 2, 4, 7}) {
      const Routing r = random_routing(5, tokens, 3, 7, true);
      expect_chunks(device(), r, std::nullopt, chunks);
      expect_chunks(device(), r, 6, chunks);
    }
}

TEST_P(Pfts, OneExpertGetsEverything) {
  const Routing r{5, 1, 4, {2, 2, 2, 2, 2}, {0.1F, 0.5F, 0.5F, 0.9F, 0.2F}};
  expect_equal(device(), r, std::nullopt);
  Arena arena(device(), MemoryTag::saved);
  // 0.9 and, of the tied 0.5, the earlier token.
  EXPECT_EQ(to_doubles(build(arena, r, 2).front().token_ids), (std::vector<double>{1, 3}));
}

TEST_P(Pfts, NegativeWeightsAreKeptWhileThereIsRoom) {
  const Routing r{2, 2, 2, {0, 1, 0, 1}, {-1.0F, -2.0F, -3.0F, -4.0F}};
  expect_equal(device(), r, 2);
  expect_equal(device(), r, 1);
}

TEST_P(Pfts, ZerosOfEitherSignAreEqual) {
  expect_equal(device(), {4, 1, 1, {0, 0, 0, 0}, {-1.0F, -0.0F, 0.0F, -0.0F}}, 2);
}

TEST_P(Pfts, NanWeightsAreDroppedFirst) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Arena arena(device(), MemoryTag::saved);
  EXPECT_EQ(to_doubles(build(arena, {3, 1, 1, {0, 0, 0}, {nan, 0.5F, nan}}, 1).front().token_ids),
            std::vector<double>{1});
  EXPECT_EQ(to_doubles(build(arena, {3, 1, 1, {0, 0, 0}, {-nan, -0.5F, nan}}, 2).front().token_ids),
            (std::vector<double>{0, 1}));
}

TEST_P(Pfts, RefuseAnExpertThatDoesNotExist) {
  Arena arena(device(), MemoryTag::saved);
  EXPECT_THROW(build(arena, {1, 1, 4, {4}, {1.0F}}, std::nullopt), InvariantError);
  EXPECT_THROW(build(arena, {1, 1, 4, {-1}, {1.0F}}, 3), InvariantError);
}

TEST_P(Pfts, RefuseMoreAssignmentsThanTheirIndicesNumber) {
  // Refused before anything is read: there is no memory behind these shapes.
  const Shape shape = {std::int64_t{1} << 30, 2};
  Arena arena(device(), MemoryTag::saved);
  std::int32_t chosen = 0;
  float weight = 0.0F;
  EXPECT_THROW(build_pft({arena}, arena, 4, Tensor(&chosen, DType::i32, shape),
                         Tensor(&weight, DType::f32, shape), {}),
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
