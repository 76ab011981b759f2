// The consumers' inner loop: sums of a tile over the stages of the ring.
#pragma once

#include "ops/grouped_mlp/hopper_tiles_gpu.h"
#include "ops/grouped_mlp/hopper_wgmma_gpu.h"

namespace xmoe::gpu::hopper {

// Of what the operands are and how they lie in a stage (hopper_wgmma_gpu.h), and whether threads copied into
// it, whose writes the tensor cores see only behind a fence.
template <typename T, bool kTransposeLeft, bool kTransposeRight, bool kCopiedByThreads>
struct Operands {
  using Element = T;
  static constexpr bool kLeft = kTransposeLeft, kRight = kTransposeRight, kCopied = kCopiedByThreads;
  static constexpr int kLeftStep = kTransposeLeft ? kTerms * kRowBytes : kTerms * 2;
  static constexpr int kRightStep = kTransposeRight ? kTerms * kRowBytes : kTerms * 2;
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }

__device__ inline void release(const Ring& ring, int stage) {
  if (lane_index() == 0) barrier_arrive(ring.empty(stage));
}

// A consumer's 64 rows of a tile over all stages, of its columns the first kWidth. One stage's products stay
// under way while the next one's are issued; a stage is given back when they are complete.
template <int kWidth, typename Operands>
__device__ inline void sum_stages(float (&sums)[kSums], Ring& ring, int stages, int consumer) {
  auto& used = reinterpret_cast<float(&)[kWidth / 2]>(sums);
  int previous = 0;
  for (int s = 0; s < stages; ++s) {
    ring.wait_full();
    if constexpr (Operands::kCopied) shared_proxy_fence();
    const std::uint32_t left = ring.address() + consumer * kBlockBytes;
    const std::uint32_t right = ring.address() + kLeftBytes;
    products_begin();
#pragma unroll
    for (int t = 0; t < kDepth / kTerms; ++t)
      multiply<typename Operands::Element, Operands::kLeft, Operands::kRight>(
          used, operand(left + t * Operands::kLeftStep, kBlockBytes),
          operand(right + t * Operands::kRightStep, kBlockBytes), s > 0 || t > 0);
    products_commit();
    products_wait<1>();
    if (s > 0) release(ring, previous);
    previous = ring.stage();
    ring.advance();
  }
  products_wait<0>();
  sums_are_complete(used);
  release(ring, previous);
}

// `rows` and `columns`: how many of the tile's there are. A consumer without rows passes its stages on, so
// that the other has the tensor cores to itself; half a tile's columns take half the time.
template <typename Operands>
__device__ inline void sum_tile(float (&sums)[kSums], int rows, int columns, Ring& ring, int stages,
                                int consumer) {
  if (rows <= consumer * kBlockRows) {
    for (int s = 0; s < stages; ++s) {
      ring.wait_full();
      warp_barrier();  // all lanes have seen the stage, and the tile's number in its first
      release(ring, ring.stage());
      ring.advance();
    }
  } else if (columns <= kColumns / 2) {
    sum_stages<kColumns / 2, Operands>(sums, ring, stages, consumer);
  } else {
    sum_stages<kColumns, Operands>(sums, ring, stages, consumer);
  }
}

// Puts the second consumer as far behind the first as the ring allows, before its first tile: then one
// multiplies while the other is busy with its results.
__device__ inline void fall_behind(const Ring& ring, int consumer, int stages) {
  if (consumer == 1) barrier_wait(ring.full(min(stages, kStages) - 1), 0);
}

}  // namespace xmoe::gpu::hopper
