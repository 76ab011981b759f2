// The consumers' inner loop: sums of a tile over the stages of the ring.
#pragma once

#include "ops/grouped_mlp/hopper_tiles_gpu.h"
#include "ops/grouped_mlp/hopper_wgmma_gpu.h"

namespace xmoe::gpu::hopper {

// How the operands lie in a stage (hopper_wgmma_gpu.h), and whether threads copied into it, whose writes the
// tensor cores see only behind a fence.
template <bool kTransposeLeft, bool kTransposeRight, bool kCopiedByThreads>
struct Operands {
  static constexpr bool kLeft = kTransposeLeft, kRight = kTransposeRight, kCopied = kCopiedByThreads;
  static constexpr int kLeftStep = kTransposeLeft ? kTerms * kRowBytes : kTerms * 2;
  static constexpr int kRightStep = kTransposeRight ? kTerms * kRowBytes : kTerms * 2;
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }

template <typename Shape>
__device__ inline void release(const Ring<Shape>& ring, int stage) {
  if (lane_index() == 0) barrier_arrive(ring.empty(stage));
}

// Of kActive blocks of 64 rows; without any the stages are passed on. One stage's products stay under way
// while the next one's are issued; a stage is given back when they are complete.
template <int kActive, typename Shape, typename Operands>
__device__ inline void sum_blocks(float (&sums)[Shape::kBlocks][Shape::kSums], Ring<Shape>& ring, int stages,
                                  int consumer) {
  int previous = 0;
  for (int s = 0; s < stages; ++s) {
    ring.wait_full();
    if constexpr (kActive > 0) {
      if constexpr (Operands::kCopied) shared_proxy_fence();
      const std::uint32_t left = ring.address() + consumer * kBlockBytes;
      const std::uint32_t right = ring.address() + Shape::kLeftBytes;
      products_begin();
#pragma unroll
      for (int t = 0; t < kDepth / kTerms; ++t) {
        const std::uint64_t b = operand(right + t * Operands::kRightStep, kBlockBytes);
#pragma unroll
        for (int i = 0; i < kActive; ++i)
          multiply<Operands::kLeft, Operands::kRight>(
              sums[i], operand(left + i * kConsumers * kBlockBytes + t * Operands::kLeftStep, kBlockBytes), b,
              s > 0 || t > 0);
      }
      products_commit();
      products_wait<1>();
      if (s > 0) release(ring, previous);
    } else {
      release(ring, ring.stage());
    }
    previous = ring.stage();
    ring.advance();
  }
  if constexpr (kActive > 0) {
    products_wait<0>();
#pragma unroll
    for (int i = 0; i < kActive; ++i) sums_are_complete(sums[i]);
    release(ring, previous);
  }
}

template <typename Shape, typename Operands>
__device__ inline void sum_tile(float (&sums)[Shape::kBlocks][Shape::kSums], int active, Ring<Shape>& ring,
                                int stages, int consumer) {
  static_assert(Shape::kBlocks <= 2);
  if (active == 0)
    sum_blocks<0, Shape, Operands>(sums, ring, stages, consumer);
  else if (active == 1)
    sum_blocks<1, Shape, Operands>(sums, ring, stages, consumer);
  else
    sum_blocks<Shape::kBlocks, Shape, Operands>(sums, ring, stages, consumer);
}

// Blocks of 64 rows that this consumer has of a tile with `rows` rows.
__device__ inline int active_blocks(int rows, int consumer) {
  return (rows / kBlockRows + (rows % kBlockRows != 0) + kConsumers - 1 - consumer) / kConsumers;
}

}  // namespace xmoe::gpu::hopper
