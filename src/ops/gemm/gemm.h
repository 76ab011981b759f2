// Dense matrix products, from the vendor's library.
//
//   gemm: C = op(A) op(B), or C += op(A) op(B)      op(X) = X or X^T
//
// A and B have one dtype (f32, bf16 or f16); C is of that dtype or f32; sums are f32. On the CPU f16 is
// widened to f32, multiplied and rounded, which is for tests and for checkpoints of f16 rather than for
// speed. Zero-sized M, N or K are ordinary: K = 0 gives zeros (or leaves C as it is when accumulating).
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

enum class Transpose : bool { no, yes };

struct GemmOptions {
  Transpose a = Transpose::no;
  Transpose b = Transpose::no;
  bool accumulate = false;
};

// Of a layer with weights W [N, K]: its forward y = x W^T, and dW += dy^T x. dx = dy W needs no options.
inline constexpr GemmOptions kTimesTransposed{.a = Transpose::no, .b = Transpose::yes, .accumulate = false};
inline constexpr GemmOptions kAccumulateTransposed{
    .a = Transpose::yes, .b = Transpose::no, .accumulate = true};

void gemm(const Context& ctx,
          const Tensor& a,  // [M, K], or [K, M] transposed
          const Tensor& b,  // [K, N], or [N, K] transposed
          const Tensor& c,  // [M, N]
          const GemmOptions& options);

}  // namespace xmoe
