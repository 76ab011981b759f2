// The six grouped products of the experts on Hopper, one launch each; hopper_mlp_gpu.cu makes the op of them.
#pragma once

#include "ops/gpu_rows.h"
#include "ops/grouped_mlp/grouped_mlp.h"
#include "ops/grouped_mlp/hopper_tiles_gpu.h"

namespace xmoe::gpu::hopper {

// Rows of a pair by index; without one those of `local` in order.
struct IndexedRows {
  RowPair pair;
  Tensor index;
};

// --- Host side of the kernels' parameters.

CUtensorMap matrix_map(const Tensor& matrix);                  // [M, N]: boxes of 64 x 64
CUtensorMap weights_map(const Tensor& weights, int box_rows);  // [E, M, N]: boxes of box_rows x 64
PairRows pair_rows(const RowPair& pair, const Tensor& index);
Experts experts_of(std::span<const std::int64_t> per_expert);
Grid persistent_grid(const Device& device, std::int64_t tiles);

// --- The products. h, a: [R, I'] and [R, I] in order; without `a` h alone is formed.

void up_product(const Context& ctx, Activation activation, const Experts& experts, const IndexedRows& x,
                const Tensor& w1, const Tensor& weights, const Tensor& h, const Tensor& a);
void down_product(const Context& ctx, const Experts& experts, const Tensor& a, const Tensor& w2,
                  const RowPair& y, const Tensor& destination);
// partial_sums: [column blocks, R], in each the part of dweights that its columns add
void activation_gradient_product(const Context& ctx, Activation activation, const Experts& experts,
                                 const IndexedRows& dy, const Tensor& w2, const Tensor& weights,
                                 const Tensor& h, const Tensor& dh, const Tensor& a,
                                 const Tensor& partial_sums);
void input_gradient_product(const Context& ctx, const Experts& experts, const Tensor& dh, const Tensor& w1,
                            const RowPair& dx, const Tensor& destination);
void up_weights_product(const Context& ctx, const Experts& experts, const Tensor& dh, const IndexedRows& x,
                        const Tensor& dw1, Accumulation accumulation);
void down_weights_product(const Context& ctx, const Experts& experts, const IndexedRows& dy, const Tensor& a,
                          const Tensor& dw2, Accumulation accumulation);

}  // namespace xmoe::gpu::hopper
