// Random numbers for large tensors on any device: one block of them after the other, as filling with fresh
// ones would take longer than what is timed. On zeros a GPU draws less power and runs faster.
#pragma once

#include <algorithm>
#include <string_view>

#include "base/rng.h"
#include "support/op_case.h"

namespace xmoe {

inline void fill_random_blocks(const Tensor& tensor, const Fill& numbers, std::string_view name) {
  constexpr std::int64_t kBlock = 1'000'003;  // a prime: rows are not equal
  const Tensor flat(tensor.raw(), tensor.dtype(), {tensor.numel()}, tensor.device());
  const Tensor block = flat.slice(0, std::min(kBlock, tensor.numel()));
  fill_random(block, numbers, Rng(1, name));
  for (std::int64_t from = block.numel(); from < flat.numel(); from += block.numel()) {
    const Tensor next = flat.slice(from, std::min(from + block.numel(), flat.numel()));
    device_copy(flat.device(), flat.raw(), next.device(), next.raw(), next.bytes());
  }
}

}  // namespace xmoe
