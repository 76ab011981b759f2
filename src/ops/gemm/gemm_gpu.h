#pragma once

#include <functional>
#include <vector>

#include "ops/gemm/gemm.h"

namespace xmoe::gpu {

void gemm(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options);

// The product by each of the algorithms that the library puts first for it, also those that gemm passes over:
// the fastest is the benchmark's bound. The calls use `ctx`.
std::vector<std::function<void()>> gemm_proposals(const Context& ctx, const Tensor& a, const Tensor& b,
                                                  const Tensor& c, const GemmOptions& options);

}  // namespace xmoe::gpu
