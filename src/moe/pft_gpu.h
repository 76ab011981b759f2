#pragma once

#include <optional>
#include <vector>

#include "moe/pft.h"

namespace xmoe::gpu {

// Of each PFT `tokens`, `top_k`, the number of experts and its part of `rows` are there already.
void fill_pfts(const Context& ctx, Arena& arena, Arena& weights_arena,
               const Tensor& top_experts,  // [T, k] i32
               const Tensor& top_weights,  // [T, k] f32
               std::optional<std::int64_t> capacity,
               const Tensor& rows,  // [T, k] i32
               std::vector<Pft>& pfts);

}  // namespace xmoe::gpu
