// Letters: T tokens, H hidden size, V rows of the output projection.
#pragma once

#include "ops/cross_entropy/cross_entropy.h"

namespace xmoe::gpu {

void merge_statistics(const Context& ctx,
                      const Tensor& parts,    // [slices, rows, 3]
                      const Tensor& merged);  // [rows, 3]

// Logits of a chunk and their gradients. The larger, the fewer times dw is read and written, and the fuller
// the last wave of the products' tiles: of 50,304 words a chunk has at most 4,352 rows in 16 bits, so that
// 8,192 or 16,384 rows go in chunks of 4,096.
inline constexpr std::int64_t kChunkBytes = std::int64_t{5} << 28;

void linear_cross_entropy(const Context& ctx,
                          const Tensor& x,  // [T, H]
                          const Tensor& w,  // [V, H]
                          std::int64_t vocabulary,
                          const Tensor& targets,  // [T]
                          const Tensor& losses,   // [T]
                          float grad_scale,
                          const Tensor& dx,  // [T, H] or undefined
                          const Tensor& dw,  // [V, H] or undefined
                          const VocabularySlice* slice, std::int64_t chunk_bytes = kChunkBytes);

}  // namespace xmoe::gpu
