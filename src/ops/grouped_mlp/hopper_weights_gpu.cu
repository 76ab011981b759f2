// Gradients of the experts' weights: dW [E, M, N] f32 += left^T right over the rows of each expert, one of
// the operands by index. The rows are the terms of the sums, 64 a stage. Bound by FLOPs; grid and shared
// memory as in hopper_rows_gpu.cu.
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
};

template <typename ShapeOfTile, bool kGatheredLeft>
struct WeightProduct {
  using Shape = ShapeOfTile;
  static constexpr bool kLeft = kGatheredLeft;  // which operand comes by index
};

__device__ inline int expert_blocks(const WeightProductParameters& p, int expert) {
  return p.experts.begin[expert + 1] > p.experts.begin[expert] ? p.row_blocks : 0;
}

template <typename Product>
__device__ void load_tiles(const WeightProductParameters& p, Ring<typename Product::Shape> ring) {
  using Shape = typename Product::Shape;
  constexpr int kGatheredColumns = Product::kLeft ? Shape::kRows : Shape::kColumns;
  constexpr int kOrderedColumns = Product::kLeft ? Shape::kColumns : Shape::kRows;
  constexpr int kGatheredAt = Product::kLeft ? 0 : Shape::kLeftBytes;
  constexpr int kOrderedAt = Product::kLeft ? Shape::kLeftBytes : 0;
  TileWalk walk(p.experts, p.column_blocks);
  Tile tile;
  while (walk.next(tile, [&](int e) { return expert_blocks(p, e); })) {
    const int begin = p.experts.begin[tile.expert];
    const int end = p.experts.begin[tile.expert + 1];
    const int gathered = (Product::kLeft ? tile.row_block : tile.column_block) * kGatheredColumns;
    const int ordered = (Product::kLeft ? tile.column_block : tile.row_block) * kOrderedColumns;
    const int width = Product::kLeft ? p.columns : p.rows;
    const int blocks = min(kOrderedColumns, width - ordered) / kDepth;
    TermGather<kGatheredColumns> gather(p.gathered, begin, end, gathered);
    for (int row = begin; row < end; row += kDepth) {
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

template <typename Shape>
__device__ void add_sums(const WeightProductParameters& p, const float (&sums)[Shape::kBlocks][Shape::kSums],
                         int active, const Tile& tile, int consumer) {
  const int lane = lane_index();
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarpSize;
  float* const dw = p.dw + static_cast<std::int64_t>(tile.expert) * p.rows * p.columns;
  const int column = tile.column_block * Shape::kColumns + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Shape::kBlocks; ++i) {
    if (i >= active) break;
    const int row =
        tile.row_block * Shape::kRows + (consumer + i * kConsumers) * kBlockRows + warp * 16 + lane / 4;
    float* const to = dw + static_cast<std::int64_t>(row) * p.columns + column;
    float* const below = to + 8 * static_cast<std::int64_t>(p.columns);
#pragma unroll
    for (int j = 0; j < Shape::kColumns / 8; ++j) {
      if (column + 8 * j >= p.columns) break;
      add_to_memory(to + 8 * j, sums[i][4 * j], sums[i][4 * j + 1]);
      add_to_memory(below + 8 * j, sums[i][4 * j + 2], sums[i][4 * j + 3]);
    }
  }
}

template <typename Product>
__device__ void multiply_tiles(const WeightProductParameters& p, Ring<typename Product::Shape> ring) {
  using Shape = typename Product::Shape;
  const int consumer = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  TileWalk walk(p.experts, p.column_blocks);
  Tile tile;
  while (walk.next(tile, [&](int e) { return expert_blocks(p, e); })) {
    const int terms = p.experts.begin[tile.expert + 1] - p.experts.begin[tile.expert];
    const int active = active_blocks(min(Shape::kRows, p.rows - tile.row_block * Shape::kRows), consumer);
    float sums[Shape::kBlocks][Shape::kSums];
    sum_tile<Shape, Operands<true, true, true>>(sums, active, ring, (terms + kDepth - 1) / kDepth, consumer);
    add_sums<Shape>(p, sums, active, tile, consumer);
  }
}

template <typename Product>
__global__ void __launch_bounds__(kThreads, 1)
    weight_product_kernel(const __grid_constant__ WeightProductParameters p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  Ring<typename Product::Shape> ring((shared_address(shared) + 1023) & ~1023U);
  if (threadIdx.x == 0) ring.init(1 + kWarpgroup);
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kLoaderRegisters>();
    load_tiles<Product>(p, ring);
  } else {
    claim_registers<kConsumerRegisters>();
    multiply_tiles<Product>(p, ring);
  }
#endif
}

template <typename Product>
void run(const Context& ctx, const Experts& experts, const Tensor& ordered, const IndexedRows& gathered,
         const Tensor& dw) {
  using Shape = typename Product::Shape;
  WeightProductParameters p{};
  p.ordered = matrix_map(ordered);
  p.gathered = pair_rows(gathered.pair, gathered.index);
  p.experts = experts;
  p.dw = dw.data<float>();
  p.rows = static_cast<int>(dw.dim(1));
  p.columns = static_cast<int>(dw.dim(2));
  p.row_blocks = (p.rows + Shape::kRows - 1) / Shape::kRows;
  p.column_blocks = (p.columns + Shape::kColumns - 1) / Shape::kColumns;
  std::int64_t tiles = 0;
  for (int e = 0; e < experts.count; ++e)
    if (experts.begin[e + 1] > experts.begin[e]) tiles += std::int64_t{p.row_blocks} * p.column_blocks;
  launch(weight_product_kernel<Product>, persistent_grid(ctx.device(), tiles), Block(kThreads),
         Shape::kSharedBytes, stream(ctx.device()), p);
}

}  // namespace

void up_weights_product(const Context& ctx, bool wide, const Experts& experts, const Tensor& dh,
                        const IndexedRows& x, const Tensor& dw1) {
  if (wide)
    run<WeightProduct<WideTile, false>>(ctx, experts, dh, x, dw1);
  else
    run<WeightProduct<TallTile, false>>(ctx, experts, dh, x, dw1);
}

void down_weights_product(const Context& ctx, bool wide, const Experts& experts, const IndexedRows& dy,
                          const Tensor& a, const Tensor& dw2) {
  if (wide)
    run<WeightProduct<WideTile, true>>(ctx, experts, a, dy, dw2);
  else
    run<WeightProduct<TallTile, true>>(ctx, experts, a, dy, dw2);
}

}  // namespace xmoe::gpu::hopper
