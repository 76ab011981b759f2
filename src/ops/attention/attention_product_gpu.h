// The tiled product that the plain attention of GPUs is made of: C = A B summed in f32 from f32, bf16 or f16,
// with operands of any strides and values formed on the way in and out. A problem says what they are:
//
//   kInnerFirstA, kInnerFirstB   whether neighbours in memory differ in the inner index, else in the row of A
//                                or the column of B: threads read along it
//   job(z, row, column)          device: the work of the tile that begins there, of product z, with
//     empty, segments            nothing to do; how many ranges of the inner index are summed, in order
//     begin, end                 of the inner index, the same in each segment
//     a(segment, row, inner)     0 outside of the matrices
//     b(segment, inner, column)
//     store(row, column, sum)    called outside of the matrix too
//
// Bound by FLOPs of f32: tensor cores would round f32 operands.
#pragma once

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

// A thread sums 8 x 4 elements: 32 multiply-adds for every three reads of 16 bytes of shared memory, and few
// enough registers for two blocks of a multiprocessor.
inline constexpr int kTileRows = 128;
inline constexpr int kTileColumns = 64;
inline constexpr int kTileDepth = 16;
inline constexpr int kThreadRows = 8;
inline constexpr int kThreadColumns = 4;
inline constexpr int kProductThreads =
    (kTileRows / kThreadRows) * (kTileColumns / kThreadColumns);  // of a block

// kExtent rows of A, or columns of B, by kTileDepth: from memory to registers, then to shared memory.
template <bool kInnerFirst, int kExtent>
struct Panel {
  // 16 bytes more than a row: keeps the alignment of wide reads, and spreads the writes over the banks.
  using Shared = float[kTileDepth][kExtent + 4];
  static constexpr int kEach = kExtent * kTileDepth / kProductThreads;
  float values[kEach];

  __device__ static int side(int n) {
    const int e = static_cast<int>(threadIdx.x) + n * kProductThreads;
    return kInnerFirst ? e / kTileDepth : e % kExtent;
  }
  __device__ static int depth(int n) {
    const int e = static_cast<int>(threadIdx.x) + n * kProductThreads;
    return kInnerFirst ? e % kTileDepth : e / kExtent;
  }
  template <typename Element>
  __device__ void fetch(const Element& element) {
#pragma unroll
    for (int n = 0; n < kEach; ++n) values[n] = element(side(n), depth(n));
  }
  __device__ void put(Shared& shared) const {
#pragma unroll
    for (int n = 0; n < kEach; ++n) shared[depth(n)][side(n)] = values[n];
  }
};

// Grid: tiles of columns (x) and rows (y), products (z). Shared memory: one panel of each operand, while the
// next are on the way to registers.
template <typename Problem>
__global__ void __launch_bounds__(kProductThreads, 2) product_kernel(Problem problem) {
  using PanelA = Panel<Problem::kInnerFirstA, kTileRows>;
  using PanelB = Panel<Problem::kInnerFirstB, kTileColumns>;
  __shared__ __align__(16) typename PanelA::Shared shared_a;
  __shared__ __align__(16) typename PanelB::Shared shared_b;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.y) * kTileRows;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kTileColumns;
  const auto job = problem.job(blockIdx.z, row, column);
  if (job.empty) return;
  const int first_row = static_cast<int>(threadIdx.x) / (kTileColumns / kThreadColumns) * kThreadRows;
  const int first_column = static_cast<int>(threadIdx.x) % (kTileColumns / kThreadColumns) * kThreadColumns;
  const std::int64_t steps = (job.end - job.begin + kTileDepth - 1) / kTileDepth;  // of a segment
  float sums[kThreadRows][kThreadColumns] = {};
  PanelA a;
  PanelB b;
  const auto fetch = [&](std::int64_t segment, std::int64_t step) {
    const std::int64_t inner = job.begin + step * kTileDepth;
    a.fetch([&](int side, int depth) { return job.a(segment, row + side, inner + depth); });
    b.fetch([&](int side, int depth) { return job.b(segment, inner + depth, column + side); });
  };
  if (steps > 0) fetch(0, 0);
  for (std::int64_t segment = 0; segment < job.segments; ++segment) {
    for (std::int64_t step = 0; step < steps; ++step) {
      __syncthreads();  // the panels of the step before have been read
      a.put(shared_a);
      b.put(shared_b);
      __syncthreads();
      if (step + 1 < steps) {
        fetch(segment, step + 1);
      } else if (segment + 1 < job.segments) {
        fetch(segment + 1, 0);
      }
#pragma unroll
      for (int d = 0; d < kTileDepth; ++d) {
        float x[kThreadRows];
        float y[kThreadColumns];
        load<kThreadRows>(&shared_a[d][first_row], x);
        load<kThreadColumns>(&shared_b[d][first_column], y);
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
          for (int j = 0; j < kThreadColumns; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i)
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j)
      job.store(row + first_row + i, column + first_column + j, sums[i][j]);
}

template <typename Problem>
void launch_products(const Problem& problem, std::int64_t rows, std::int64_t columns, std::int64_t products,
                     Stream stream) {
  const Grid grid(static_cast<unsigned>(ceil_div(columns, kTileColumns)),
                  static_cast<unsigned>(ceil_div(rows, kTileRows)), static_cast<unsigned>(products));
  launch(product_kernel<Problem>, grid, Block(kProductThreads), 0, stream, problem);
}

}  // namespace xmoe::gpu
