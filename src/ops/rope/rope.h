// Rotary position embedding (Su et al. 2021), the half-split form of GPT-NeoX, Llama and Megatron: element i
// of the first half of a head is rotated with element i of the second half by the angle
// position * base^(-2 i / D).
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

enum class RopeDirection : bool { forward, backward };  // backward rotates by the opposite angle

// Fills a table of cosines and sines: [S, D], cosines of the D/2 angles first. Angles are computed in double.
void rope_table(double base, const Tensor& table);

// In place, on the first `rotated_heads` heads of every row; row t has position t % S.
void rope(const Context& ctx, RopeDirection direction, std::int64_t rotated_heads,
          const Tensor& x,       // [T, heads, D]
          const Tensor& table);  // [S, D] f32
}  // namespace xmoe
