// Letters: T tokens, H hidden size, V rows of the output projection.
#pragma once

#include "ops/cross_entropy/cross_entropy.h"

namespace xmoe::cpu {

void merge_statistics(const Tensor& parts,    // [slices, rows, 3]
                      const Tensor& merged);  // [rows, 3]

void linear_cross_entropy(const Context& ctx,
                          const Tensor& x,  // [T, H]
                          const Tensor& w,  // [V, H]
                          std::int64_t vocabulary,
                          const Tensor& targets,  // [T]
                          const Tensor& losses,   // [T]
                          float grad_scale,
                          const Tensor& dx,  // [T, H] or undefined
                          const Tensor& dw,  // [V, H] or undefined
                          const VocabularySlice* slice);

}  // namespace xmoe::cpu
