// Routings of a known distribution, for measuring dispatchers without a router.
#pragma once

#include <cstdint>

#include "device/arena.h"
#include "moe/pft.h"

namespace xmoe {

struct SyntheticRouting {
  Tensor top_experts;  // [T, k] i32, distinct within a token
  Tensor top_weights;  // [T, k] f32 in (0, 1)
};

// Tokens choose independently, without replacement, expert e with a probability proportional to
// 1 / place(e)^zipf, where the places are a random order that all ranks share; zipf = 0: uniformly.
SyntheticRouting synthetic_routing(Arena& arena, std::int64_t experts, std::int64_t top_k,
                                   std::int64_t tokens, double zipf,
                                   int rank);  // each has tokens of its own

}  // namespace xmoe
