// Gradients of the experts' weights: dW [E, M, N] f32 += or = left^T right over the rows of each expert that
// has some, one of the operands by index. The rows are the terms of the sums, 64 a stage. Bound by FLOPs;
// grid and shared memory as in hopper_rows_gpu.cu.
#include "device/gpu.h"
#include "ops/grouped_mlp/hopper_multiply_gpu.h"
#include "ops/grouped_mlp/hopper_products_gpu.h"

namespace xmoe::gpu::hopper {

namespace {

struct WeightProductParameters {
  CUtensorMap ordered;  // the operand in order, boxes of 64 x 64
  PairRows gathered;    // the other
  Experts experts;
  float* dw;  // [E, rows, columns]
  int rows, columns;
  int row_blocks, column_blocks;
  bool add;  // or write
};

// Unused in the code for other GPUs, where the kernel is empty; so is store_sums().
[[maybe_unused]] __device__ inline int expert_blocks(const WeightProductParameters& p, int expert) {
  return p.experts.begin[expert + 1] > p.experts.begin[expert] ? p.row_blocks : 0;
}

template <bool kGatheredLeft>  // which operand comes by index
__device__ void load_tiles(const WeightProductParameters& p, Ring ring) {
  constexpr int kGatheredColumns = kGatheredLeft ? kRows : kColumns;
  constexpr int kOrderedColumns = kGatheredLeft ? kColumns : kRows;
  constexpr int kGatheredAt = kGatheredLeft ? 0 : kLeftBytes;
  constexpr int kOrderedAt = kGatheredLeft ? kLeftBytes : 0;
  TileWalk walk(p.experts, p.column_blocks);
  Tile tile;
  while (walk.next(tile, [&](int e) { return expert_blocks(p, e); })) {
    const int begin = p.experts.begin[tile.expert];
    const int end = p.experts.begin[tile.expert + 1];
    const int gathered = (kGatheredLeft ? tile.row_block : tile.column_block) * kGatheredColumns;
    const int ordered = (kGatheredLeft ? tile.column_block : tile.row_block) * kOrderedColumns;
    const int width = kGatheredLeft ? p.columns : p.rows;
    const int blocks = min(kOrderedColumns, width - ordered) / kDepth;
    TermGather<kGatheredColumns> gather(p.gathered, begin, end, gathered);
    const int stages = (end - begin + kDepth - 1) / kDepth;
    // The tile of dW, if the consumers will add to it: a row of it a thread, spread over the stages, so that
    // the additions find it in the L2 cache.
    const int thread = static_cast<int>(threadIdx.x);
    const int dw_row = tile.row_block * kRows + thread;
    const int dw_column = tile.column_block * kColumns;
    const float* const dw =
        p.dw + (static_cast<std::int64_t>(tile.expert) * p.rows + dw_row) * p.columns + dw_column;
    const int dw_stage = p.add && dw_row < p.rows ? thread * stages / kRows : stages;
    for (int s = 0; s < stages; ++s) {
      const int row = begin + s * kDepth;
      if (s == dw_stage)
        prefetch_bytes(dw, min(kColumns, p.columns - dw_column) * static_cast<int>(sizeof(float)));
      ring.wait_empty();
      const std::uint32_t full = ring.full(ring.stage());
      if (threadIdx.x == 0) {
        barrier_arrive_expecting(full, blocks * kBlockBytes);
        for (int b = 0; b < blocks; ++b)
          copy_box(ring.address() + kOrderedAt + b * kBlockBytes, &p.ordered, ordered + b * kDepth, row,
                   full);
      }
      gather.load(ring.address() + kGatheredAt);
      arrive_after_copies(full);
      ring.advance();
    }
  }
}

[[maybe_unused]] __device__ void store_sums(const WeightProductParameters& p, const float (&sums)[kSums],
                                            const Tile& tile, int consumer) {
  const int lane = lane_index();
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarpSize;
  const int row = tile.row_block * kRows + consumer * kBlockRows + warp * 16 + lane / 4;
  if (row >= p.rows) return;  // of whole blocks of 64
  const int column = tile.column_block * kColumns + lane % 4 * 2;
  float* const to = p.dw + (static_cast<std::int64_t>(tile.expert) * p.rows + row) * p.columns + column;
  float* const below = to + 8 * static_cast<std::int64_t>(p.columns);
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    if (column + 8 * j >= p.columns) break;
    if (p.add) {
      add_to_memory(to + 8 * j, sums[4 * j], sums[4 * j + 1]);
      add_to_memory(below + 8 * j, sums[4 * j + 2], sums[4 * j + 3]);
    } else {
      write_to_memory(to + 8 * j, sums[4 * j], sums[4 * j + 1]);
      write_to_memory(below + 8 * j, sums[4 * j + 2], sums[4 * j + 3]);
    }
  }
}

template <typename T>
__device__ void multiply_tiles(const WeightProductParameters& p, Ring ring) {
  const int consumer = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  TileWalk walk(p.experts, p.column_blocks);
  Tile tile;
  bool first = true;
  while (walk.next(tile, [&](int e) { return expert_blocks(p, e); })) {
    const int terms = p.experts.begin[tile.expert + 1] - p.experts.begin[tile.expert];
    const int stages = (terms + kDepth - 1) / kDepth;
    if (first) fall_behind(ring, consumer, stages);
    first = false;
    float sums[kSums];
    sum_tile<Operands<T, true, true, true>>(sums, p.rows - tile.row_block * kRows,
                                            p.columns - tile.column_block * kColumns, ring, stages, consumer);
    store_sums(p, sums, tile, consumer);
  }
}

template <typename T, bool kGatheredLeft>  // which operand comes by index
__global__ void __launch_bounds__(kThreads, 1)
    weight_product_kernel(const __grid_constant__ WeightProductParameters p) {
#if defined(XMOE_HOPPER_CODE)
  extern __shared__ char shared[];
  Ring ring((shared_address(shared) + 1023) & ~1023U);
  if (threadIdx.x == 0) ring.init(1 + kWarpgroup);
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kLoaderRegisters>();
    load_tiles<kGatheredLeft>(p, ring);
  } else {
    claim_registers<kConsumerRegisters>();
    multiply_tiles<T>(p, ring);
  }
#endif
}

template <bool kGatheredLeft>  // which operand comes by index
void run(const Context& ctx, const Experts& experts, const Tensor& ordered, const IndexedRows& gathered,
         const Tensor& dw, Accumulation accumulation) {
  WeightProductParameters p{};
  p.ordered = matrix_map(ordered);
  p.gathered = pair_rows(gathered.pair, gathered.index);
  p.experts = experts;
  p.dw = dw.data<float>();
  p.rows = static_cast<int>(dw.dim(1));
  p.columns = static_cast<int>(dw.dim(2));
  p.row_blocks = (p.rows + kRows - 1) / kRows;
  p.column_blocks = (p.columns + kColumns - 1) / kColumns;
  p.add = accumulation == Accumulation::add;
  std::int64_t tiles = 0;
  for (int e = 0; e < experts.count; ++e)
    if (experts.begin[e + 1] > experts.begin[e]) tiles += std::int64_t{p.row_blocks} * p.column_blocks;
  with_half({ordered.dtype()}, [&]<typename T>(T) {
    launch(weight_product_kernel<T, kGatheredLeft>, persistent_grid(ctx.device(), tiles), Block(kThreads),
           kSharedBytes, stream(ctx.device()), p);
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
