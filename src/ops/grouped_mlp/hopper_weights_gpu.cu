// Gradients of the experts' weights: dW [E, M, N] or dW^T [E, N, M] += or = left^T right over the rows
// of each expert that has some, left [R, M] in order, right [R, N] by index. The rows are the terms of the
// sums, 64 a stage. Bound by FLOPs; grid and shared memory as in hopper_rows_gpu.cu.
//
// left is always what has the inner size, and dW2 is stored through its transpose: inner sizes are often odd
// multiples of 128, the tile's rows, and would leave the last tile of 256 columns half empty.
#include "device/gpu.h"
#include "ops/grouped_mlp/hopper_multiply_gpu.h"
#include "ops/grouped_mlp/hopper_products_gpu.h"

namespace xmoe::gpu::hopper {

namespace {

struct WeightProductParameters {
  CUtensorMap left;  // boxes of 64 x 64
  PairRows right;
  Experts experts;
  void* dw;  // [E, rows, columns], or [E, columns, rows]
  int rows, columns;
  int row_blocks, column_blocks;
  bool add;  // or write
};

// Unused in the code for other GPUs, where the kernel is empty; so is store_sums().
[[maybe_unused]] __device__ inline bool find(const WeightProductParameters& p, TileList& tiles, int number,
                                             Tile& tile) {
  return tiles.find(number, tile, [&](int expert) -> BlocksOfRows {
    return {expert, 0, p.experts.begin[expert + 1] > p.experts.begin[expert] ? p.row_blocks : 0};
  });
}

// Asks for the tile of dW, one or two of its lines a thread, so that additions to it find it in the L2 cache.
template <typename G, bool kTransposed>
__device__ inline void prefetch_tile(const WeightProductParameters& p, const Tile& tile) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = tile.row_block * kRows;
  const int column = tile.column_block * kColumns;
  const G* const dw =
      static_cast<const G*>(p.dw) + static_cast<std::int64_t>(tile.expert) * p.rows * p.columns;
  constexpr int kSize = static_cast<int>(sizeof(G));
  if constexpr (kTransposed) {
    for (int line = column + thread; line < min(column + kColumns, p.columns); line += kWarpgroup)
      prefetch_bytes(dw + static_cast<std::int64_t>(line) * p.rows + row, min(kRows, p.rows - row) * kSize);
  } else if (row + thread < p.rows) {
    prefetch_bytes(dw + static_cast<std::int64_t>(row + thread) * p.columns + column,
                   min(kColumns, p.columns - column) * kSize);
  }
}

template <typename G, bool kTransposed>
__device__ void load_tiles(const WeightProductParameters& p, Ring ring) {
  TileList tiles(p.experts.count, p.column_blocks);
  TakenTiles<true> taken(p.experts, ring);
  Tile tile;
  for (; find(p, tiles, taken.number(), tile); taken.next()) {
    taken.ask();
    if (p.add) prefetch_tile<G, kTransposed>(p, tile);
    const int begin = p.experts.begin[tile.expert];
    const int end = p.experts.begin[tile.expert + 1];
    const int left = tile.row_block * kRows;
    const int blocks = min(kRows, p.rows - left) / kDepth;
    TermGather gather(p.right, begin, end, tile.column_block * kColumns);
    const int stages = (end - begin + kDepth - 1) / kDepth;
    for (int s = 0; s < stages; ++s) {
      ring.wait_empty();
      const std::uint32_t full = ring.full(ring.stage());
      if (threadIdx.x == 0) {
        if (s == 0) ring.put_tile(taken.number());
        barrier_arrive_expecting(full, blocks * kBlockBytes);
#pragma unroll
        for (int b = 0; b < kRows / kDepth; ++b)
          if (b < blocks)
            copy_box(ring.address() + b * kBlockBytes, &p.left, left + b * kDepth, begin + s * kDepth, full);
      }
      gather.load(ring.address() + kLeftBytes);
      arrive_after_copies(full);
      gather.advance();
      ring.advance();
    }
  }
  tell_the_end<true>(ring, taken.number());
}

// A thread has two neighbouring columns of each row. Of the transpose, where neighbours in memory are rows,
// it takes two rows of one of the columns, and the thread that has the other row those of the other.
template <typename G, bool kTransposed>
[[maybe_unused]] __device__ void store_sums(const WeightProductParameters& p, const float (&sums)[kSums],
                                            const Tile& tile, int consumer) {
  const int lane = lane_index();
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarpSize;
  const int first_row = tile.row_block * kRows + consumer * kBlockRows + warp * 16;
  if (first_row >= p.rows) return;  // of whole blocks of 64
  const bool odd_row = lane / 4 % 2 != 0;
  const int row = first_row + lane / 4 - (kTransposed && odd_row ? 1 : 0);
  const int column = tile.column_block * kColumns + lane % 4 * 2 + (kTransposed && odd_row ? 1 : 0);
  const std::int64_t of_row = kTransposed ? 1 : p.columns;
  const std::int64_t of_column = kTransposed ? p.rows : 1;
  G* const to = static_cast<G*>(p.dw) + static_cast<std::int64_t>(tile.expert) * p.rows * p.columns +
                row * of_row + column * of_column;
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    if (tile.column_block * kColumns + 8 * j >= p.columns) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // eight rows below
      float first = sums[4 * j + 2 * half];
      float second = sums[4 * j + 2 * half + 1];
      if constexpr (kTransposed) {
        const float other = shuffle_xor(odd_row ? first : second, 4);
        (odd_row ? first : second) = other;
      }
      G* const here = to + 8 * j * of_column + 8 * half * of_row;
      if (p.add)
        add_to_memory(here, first, second);
      else
        write_to_memory(here, first, second);
    }
  }
}

template <typename T, typename G, bool kTransposed>
__device__ void multiply_tiles(const WeightProductParameters& p, Ring ring) {
  const int consumer = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  TileList tiles(p.experts.count, p.column_blocks);
  Tile tile;
  bool first = true;
  while (find(p, tiles, received_tile(ring), tile)) {
    const int terms = p.experts.begin[tile.expert + 1] - p.experts.begin[tile.expert];
    const int stages = (terms + kDepth - 1) / kDepth;
    if (first) fall_behind(ring, consumer, stages);
    first = false;
    float sums[kSums];
    sum_tile<Operands<T, true, true, true>>(sums, p.rows - tile.row_block * kRows,
                                            p.columns - tile.column_block * kColumns, ring, stages, consumer);
    store_sums<G, kTransposed>(p, sums, tile, consumer);
  }
}

template <typename T, typename G, bool kTransposed>
__global__ void __launch_bounds__(kThreads, 1)
    weight_product_kernel(const __grid_constant__ WeightProductParameters p) {
#if defined(XMOE_HOPPER_CODE)
  extern __shared__ char shared[];
  Ring ring((shared_address(shared) + 1023) & ~1023U);
  if (threadIdx.x == 0) ring.init(1 + kWarpgroup);
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kLoaderRegisters>();
    load_tiles<G, kTransposed>(p, ring);
  } else {
    claim_registers<kConsumerRegisters>();
    multiply_tiles<T, G, kTransposed>(p, ring);
  }
#endif
}

template <bool kTransposed>
void run(const Context& ctx, const Experts& experts, const Tensor& left, const IndexedRows& right,
         const Tensor& dw, Accumulation accumulation) {
  WeightProductParameters p{};
  p.left = matrix_map(left);
  p.right = pair_rows(right.pair, right.index);
  p.experts = experts;
  p.dw = dw.raw();
  p.rows = static_cast<int>(left.dim(1));
  p.columns = static_cast<int>(right.pair.local.dim(1));
  p.row_blocks = (p.rows + kRows - 1) / kRows;
  p.column_blocks = (p.columns + kColumns - 1) / kColumns;
  p.add = accumulation == Accumulation::add;
  std::int64_t tiles = 0;
  for (int e = 0; e < experts.count; ++e)
    if (experts.begin[e + 1] > experts.begin[e]) tiles += std::int64_t{p.row_blocks} * p.column_blocks;
  with_half({left.dtype()}, [&]<typename T>(T) {
    const auto launched = [&]<typename G>(G) {
      launch(weight_product_kernel<T, G, kTransposed>, persistent_grid(ctx.device(), tiles), Block(kThreads),
             kSharedBytes, stream(ctx.device()), p);
    };
    if (dw.dtype() == DType::f32)
      launched(0.0F);
    else
      launched(T{});
  });
}

}  // namespace

void up_weights_product(const Context& ctx, const Experts& experts, const Tensor& dh, const IndexedRows& x,
                        const Tensor& dw1, Accumulation accumulation) {
  run<false>(ctx, experts, dh, x, dw1, accumulation);
}

void down_weights_product(const Context& ctx, const Experts& experts, const IndexedRows& dy, const Tensor& a,
                          const Tensor& dw2, Accumulation accumulation) {
  run<true>(ctx, experts, a, dy, dw2, accumulation);
}

}  // namespace xmoe::gpu::hopper
