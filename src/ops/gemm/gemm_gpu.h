#pragma once

#include <functional>
#include <vector>

#include "ops/gemm/gemm.h"

namespace xmoe::gpu {

// What a product takes of the workspace, whatever its shape: the 32 MiB that the vendor advises for Hopper,
// where more rarely finds a faster algorithm, and what aligning them may cost.
inline constexpr std::size_t kProductAlignment = 256;  // which the library insists on, and arenas do not give
inline constexpr std::size_t kProductWorkspace = (std::size_t{32} << 20) + kProductAlignment;

void gemm(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options);

// C += op(A) op(B), reading and writing C once. Where C has 16 bits the library may round the product to them
// before it adds it, which gemm() does not. The dtypes are those that the library mixes: A and B bf16, C bf16
// or f32.
void gemm_onto(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, GemmOptions options);

// The product by each of the algorithms that the library puts first for it, also those that gemm passes over:
// the fastest is the benchmark's bound. The calls use `ctx`.
std::vector<std::function<void()>> gemm_proposals(const Context& ctx, const Tensor& a, const Tensor& b,
                                                  const Tensor& c, const GemmOptions& options);

}  // namespace xmoe::gpu
