#include "moe/chunks.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace xmoe {
namespace {

Pft random_pft(Arena& arena, std::int64_t tokens, std::int64_t top_k, std::int64_t experts,
               std::optional<std::int64_t> capacity) {
  const Tensor chosen = arena.tensor(DType::i32, {tokens, top_k});
  const Tensor weights = arena.tensor(DType::f32, {tokens, top_k});
  const Rng rng(3, "choice");
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto first = rng.below(static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(experts));
    for (std::int64_t j = 0; j < top_k; ++j) {
      chosen.data<std::int32_t>()[t * top_k + j] =
          static_cast<std::int32_t>((static_cast<std::int64_t>(first) + 2 * j) % experts);
      weights.data<float>()[t * top_k + j] =
          static_cast<float>(rng.normal(static_cast<std::uint64_t>(t * top_k + j)));
    }
  }
  return build_pft(arena, experts, chosen, weights, capacity);
}

// Assignments are kept with the same weight, and rows say what the slots say.
void expect_parts_of(const Pft& whole, Arena& arena, std::int64_t chunks) {
  std::int64_t kept = 0;
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < chunks; ++i) {
    const TokenChunk chunk = token_chunk(whole.tokens, i, chunks);
    ASSERT_EQ(chunk.first, end);
    end = chunk.end;
    const Pft part = slice_pft(arena, whole, chunk.first, chunk.end);
    ASSERT_EQ(part.tokens, chunk.end - chunk.first);
    std::vector<std::int64_t> begins(part.per_expert.size() + 1, 0);
    for (std::size_t e = 0; e < part.per_expert.size(); ++e) begins[e + 1] = begins[e] + part.per_expert[e];
    ASSERT_EQ(begins.back(), part.kept());
    kept += part.kept();
    std::vector<bool> seen(static_cast<std::size_t>(part.kept()), false);
    for (std::int64_t a = 0; a < part.rows.numel(); ++a) {
      const std::int64_t whole_row = whole.rows.data<std::int32_t>()[chunk.first * whole.top_k + a];
      const std::int64_t row = part.rows.data<std::int32_t>()[a];
      ASSERT_EQ(row < 0, whole_row < 0) << "assignment " << a << " of chunk " << i;
      if (row < 0) continue;
      seen[static_cast<std::size_t>(row)] = true;
      EXPECT_EQ(part.token_ids.data<std::int32_t>()[row], a / whole.top_k);
      EXPECT_EQ(part.weights.data<float>()[row], whole.weights.data<float>()[whole_row]);
      // Of the same expert.
      std::int64_t whole_begin = 0;
      std::size_t e = 0;
      for (; whole_row >= whole_begin + whole.per_expert[e]; ++e) whole_begin += whole.per_expert[e];
      EXPECT_GE(row, begins[e]);
      EXPECT_LT(row, begins[e + 1]);
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), part.kept());
  }
  EXPECT_EQ(end, whole.tokens);
  EXPECT_EQ(kept, whole.kept());
}

TEST(Chunks, CutTheRowsOfTheWhole) {
  Arena arena({}, MemoryTag::workspace);
  for (const std::int64_t tokens : {0, 1, 3, 40})
    for (const std::int64_t chunks : {1, 2, 4, 7})
      expect_parts_of(random_pft(arena, tokens, 3, 7, std::nullopt), arena, chunks);
}

TEST(Chunks, DropWhatTheWholeDrops) {
  Arena arena({}, MemoryTag::workspace);
  const Pft whole = random_pft(arena, 50, 2, 5, 6);
  ASSERT_GT(whole.dropped(), 0);
  expect_parts_of(whole, arena, 4);
}

}  // namespace
}  // namespace xmoe
