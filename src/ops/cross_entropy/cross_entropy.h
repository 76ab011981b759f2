// Output projection and cross-entropy in one op, over chunks of rows: the [T, V] logits never exist as a
// whole (after Hsu et al. 2024, "Liger Kernel"). The gradients are formed in the same pass, since the loss is
// the end of the forward and its scale is known.
//
//   loss_t = logsumexp_v(x_t . w_v) - x_t . w_target(t)
#pragma once

#include <cstdint>
#include <functional>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

// Where w holds a run of the words only, and other slices, on other ranks, the others. All call the op with
// the same x and targets, and as many rows of w. Losses are those of all words, the same for every slice; dx
// is the part of this slice's words, to be summed over slices.
struct VocabularySlice {
  std::int64_t first = 0;  // the word of row 0 of w
  std::int64_t words = 0;  // of all slices
  // Replaces the statistics of the rows of a chunk, [rows, 3] f32, by those of all slices (merge_statistics).
  // Called once for every chunk, in the same order for every slice. Of a row: the maximum of its logits, the
  // sum of exp(logit - maximum), and the target's logit, 0 where the target is another slice's.
  std::function<void(const Tensor& statistics)> merge;
};

// Statistics of all slices from those of each, in their order.
void merge_statistics(const Context& ctx,
                      const Tensor& parts,    // [slices, rows, 3] f32
                      const Tensor& merged);  // [rows, 3] f32

inline constexpr std::int32_t kIgnoredTarget = -1;  // loss 0, gradient 0

// f32, bf16 or f16 (x and w of one dtype); logits, softmax and losses in f32. Only the first `vocabulary`
// rows of w take part: the others are padding. With a slice they are words slice->first and following, and
// may be none.
void linear_cross_entropy(const Context& ctx,
                          const Tensor& x,          // [T, H]
                          const Tensor& w,          // [V, H]
                          std::int64_t vocabulary,  // <= V
                          const Tensor& targets,    // [T] i32 in [0, words) or kIgnoredTarget
                          const Tensor& losses,     // [T] f32
                          float grad_scale,         // the gradients are those of grad_scale * sum of losses
                          const Tensor& dx,         // [T, H]; undefined: no gradients are formed
                          const Tensor& dw,         // [V, H] f32; added to; undefined together with dx
                          const VocabularySlice* slice = nullptr);

}  // namespace xmoe
