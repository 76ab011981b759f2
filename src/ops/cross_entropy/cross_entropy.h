// Output projection and cross-entropy in one op, over chunks of rows: the [T, V] logits never exist as a
// whole (after Hsu et al. 2024, "Liger Kernel"). The gradients are formed in the same pass, since the loss is
// the end of the forward and its scale is known.
//
//   loss_t = logsumexp_v(x_t . w_v) - x_t . w_target(t)
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

inline constexpr std::int32_t kIgnoredTarget = -1;  // loss 0, gradient 0

// f32 or bf16 (x and w of one dtype); logits, softmax and losses in f32. Only the first `vocabulary` rows of
// w take part: the others are padding.
void linear_cross_entropy(const Context& ctx,
                          const Tensor& x,          // [T, H]
                          const Tensor& w,          // [V, H]
                          std::int64_t vocabulary,  // <= V
                          const Tensor& targets,    // [T] i32 in [0, vocabulary) or kIgnoredTarget
                          const Tensor& losses,     // [T] f32
                          float grad_scale,         // the gradients are those of grad_scale * sum of losses
                          const Tensor& dx,         // [T, H]; undefined: no gradients are formed
                          const Tensor& dw);        // [V, H] f32; added to; undefined together with dx

}  // namespace xmoe
