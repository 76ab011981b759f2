// The feed-forward networks of E experts over rows that are sorted by expert: gather, two grouped matrix
// products with the activation between them, and scatter, in one op. A dense MLP is the case of one expert
// whose rows lie in order.
//
//   h = x W1^T        x: row of this expert    W1 [I', H], I' = I (gelu) or 2 I (swiglu: I gate rows, then I
//   up rows) a = gelu(h)   or  silu(h_gate) * h_up y = (w a) W2^T    w: the combine weight of the row (1
//   without weights)    W2 [H, I]
//
// The weight is applied before the second product, which is linear: then y need not be kept for dw, since
//   dw = <da, a> with da = dy W2, which backward forms anyway.
// Kept for backward per row: h, and nothing else. x is read again from where it came from.
//
// Rows of other ranks and rows of this rank's own tokens lie in different places, so every side of the op is
// a pair of matrices. Row r comes from `source[r]`: row source[r] of `local` if that is below its number of
// rows, else row source[r] - rows of `remote`; results go to `destination[r]` of the output pair in the same
// way. In backward dy takes the place of x and dx that of y, with the same indices.
//
// f32, bf16 or f16 with f32 sums. Gradients of the weights are f32 or of the weights' dtype; then a call
// rounds the sum, and on some GPUs before that what it adds. Experts without rows are ordinary.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

enum class Activation : std::uint8_t { gelu, swiglu };  // gelu: the tanh form

// What backward does with what dw1 and dw2 hold: it adds to that, or writes them without reading it, zeros
// for experts without rows.
enum class Accumulation : std::uint8_t { add, write };

inline std::int64_t preactivation_width(Activation activation, std::int64_t ffn_hidden) {
  return activation == Activation::swiglu ? 2 * ffn_hidden : ffn_hidden;
}

struct RowPair {
  Tensor local;   // [L, H]; L may be 0
  Tensor remote;  // [S, H]; undefined if nothing is remote
};

struct ExpertRows {
  std::span<const std::int64_t> per_expert;  // [E], sums to R; host memory
  Tensor source;                             // [R] i32; undefined: row r is row r of `local`
  Tensor destination;                        // [R] i32; undefined likewise
  Tensor weights;                            // [R] f32; undefined: all 1

  std::int64_t total() const;
};

void grouped_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows,
                         const RowPair& x,   // [L, H], [S, H]
                         const Tensor& w1,   // [E, I', H]
                         const Tensor& w2,   // [E, H, I]
                         const Tensor& h,    // [R, I'], kept for backward
                         const RowPair& y);  // [L', H], [S', H]; undefined: h is formed, and no more

void grouped_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows,
                          const RowPair& dy,       // [L, H], [S, H]
                          const RowPair& x,        // [L, H], [S, H]
                          const Tensor& w1,        // [E, I', H]
                          const Tensor& w2,        // [E, H, I]
                          const Tensor& h,         // [R, I']
                          const RowPair& dx,       // [L', H], [S', H]
                          const Tensor& dweights,  // [R] f32; undefined without weights
                          const Tensor& dw1,       // [E, I', H] f32, or as w1
                          const Tensor& dw2,       // [E, H, I] as dw1
                          Accumulation accumulation);

}  // namespace xmoe
