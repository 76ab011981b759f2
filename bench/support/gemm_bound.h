// What the vendor's library reaches on a product whose shape it was told beforehand: the bound of our own.
#pragma once

#include "ops/gemm/gemm.h"

namespace xmoe {

// GFLOP/s of C [m, n] = op(A) op(B) with k terms, all threads: by a primitive compiled for the shape, with
// the operands as they lie: weights change with every step, so that packing them beforehand is no option in
// training. Measured once per shape.
double gemm_bound(std::int64_t m, std::int64_t n, std::int64_t k, DType input, DType output,
                  const GemmOptions& options = {});

}  // namespace xmoe
