// Products whose results are rows: h, y, a's gradient and dx. Bound by FLOPs.
//
// Grid: one persistent block of three warpgroups a multiprocessor. Shared memory: four stages of 48 KB, and
// 32 KB for results on their way out.
#include "ops/grouped_mlp/hopper_products_gpu.h"
#include "ops/grouped_mlp/hopper_results_gpu.h"

namespace xmoe::gpu::hopper {

namespace {

template <typename Result>
struct RowProductParameters {
  CUtensorMap left;   // [R, K], boxes of 64 x 64; unless gathered
  PairRows gathered;  // or the rows by index
  CUtensorMap right;  // [E, N, K], boxes of half a tile x 64; transposed: [E, K, N], boxes of 64 x 64
  Experts experts;
  int depth;  // K
  int column_blocks;
  int tile_columns;  // from one tile to the next
  int second_half;   // from the first half of a tile's columns to the second
  typename Result::Parameters result;
};

template <typename ShapeOfTile, bool kGatheredLeft, bool kTransposedRight, typename ResultOfTile>
struct RowProduct {
  using Shape = ShapeOfTile;
  using Result = ResultOfTile;
  using Parameters = RowProductParameters<Result>;
  static constexpr bool kGathered = kGatheredLeft, kTransposed = kTransposedRight;
};

template <typename Product>
__device__ int tile_rows(const typename Product::Parameters& p, const Tile& tile, int& row) {
  row = p.experts.begin[tile.expert] + tile.row_block * Product::Shape::kRows;
  return min(Product::Shape::kRows, p.experts.begin[tile.expert + 1] - row);
}

template <typename Product>
__device__ int row_blocks(const typename Product::Parameters& p, int expert) {
  constexpr int kRows = Product::Shape::kRows;
  return (p.experts.begin[expert + 1] - p.experts.begin[expert] + kRows - 1) / kRows;
}

// By one thread.
template <typename Product>
__device__ void load_boxes(const typename Product::Parameters& p, const Tile& tile, int row, int blocks,
                           int term, std::uint32_t to, std::uint32_t barrier) {
  using Shape = typename Product::Shape;
  const std::uint32_t right = to + Shape::kLeftBytes;
  const int column = tile.column_block * p.tile_columns;
  if constexpr (Product::kTransposed) {
    for (int c = 0; c < Shape::kColumns / kDepth; ++c)
      copy_box(right + c * kBlockBytes, &p.right, column + c * kDepth, term, tile.expert, barrier);
  } else {
    copy_box(right, &p.right, term, column, tile.expert, barrier);
    copy_box(right + Shape::kColumns / 2 * kRowBytes, &p.right, term, column + p.second_half, tile.expert,
             barrier);
  }
  if constexpr (!Product::kGathered)
    for (int b = 0; b < blocks; ++b)
      copy_box(to + b * kBlockBytes, &p.left, term, row + b * kBlockRows, barrier);
}

template <typename Product>
__device__ void load_tiles(const typename Product::Parameters& p, Ring<typename Product::Shape> ring) {
  using Shape = typename Product::Shape;
  using Result = typename Product::Result;
  const bool leader = threadIdx.x == 0;
  if (!Product::kGathered && !leader) return;
  TileWalk walk(p.experts, p.column_blocks);
  Tile tile;
  while (walk.next(tile, [&](int e) { return row_blocks<Product>(p, e); })) {
    int row = 0;
    const int rows = tile_rows<Product>(p, tile, row);
    const int blocks = (rows + kBlockRows - 1) / kBlockRows;
    const auto load = [&](const RowGather<Shape>* gather) {
      for (int term = 0; term < p.depth; term += kDepth) {
        ring.wait_empty();
        if (leader) {
          barrier_arrive_expecting(
              ring.full(ring.stage()),
              Shape::kColumns * kRowBytes + (Product::kGathered ? 0 : blocks * kBlockBytes));
          load_boxes<Product>(p, tile, row, blocks, term, ring.address(), ring.full(ring.stage()));
        }
        if constexpr (Product::kGathered) {
          gather->load(ring.address(), term);
          arrive_after_copies(ring.full(ring.stage()));
        }
        ring.advance();
      }
    };
    if constexpr (Product::kGathered) {
      const RowGather<Shape> gather(p.gathered, row, rows);
      load(&gather);
    } else {
      load(nullptr);
    }
    if constexpr (Result::kStages > 0) {
      for (int s = 0; s < Result::kStages; ++s) {
        ring.wait_empty();
        const std::uint32_t full = ring.full(ring.stage());
        if (leader) {
          barrier_arrive_expecting(full, Result::bytes_of_stage(blocks));
          Result::load(p.result, s, row, blocks, tile.column_block * p.tile_columns, ring.address(), full);
        }
        if constexpr (Product::kGathered) arrive_after_copies(full);
        ring.advance();
      }
    }
  }
}

template <typename Product>
__device__ void multiply_tiles(const typename Product::Parameters& p, Ring<typename Product::Shape> ring) {
  using Shape = typename Product::Shape;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  Part part{};
  part.consumer = thread / kWarpgroup;
  part.warp = thread % kWarpgroup / kWarpSize;
  part.lane = lane_index();
  PieceWriter writer(ring.staging(thread / kWarpSize));
  TileWalk walk(p.experts, p.column_blocks);
  Tile tile;
  while (walk.next(tile, [&](int e) { return row_blocks<Product>(p, e); })) {
    part.rows = tile_rows<Product>(p, tile, part.row);
    part.column_block = tile.column_block;
    part.column = tile.column_block * p.tile_columns;
    const int active = active_blocks(part.rows, part.consumer);
    float sums[Shape::kBlocks][Shape::kSums];
    sum_tile<Shape, Operands<false, Product::kTransposed, Product::kGathered>>(
        sums, active, ring, p.depth / kDepth, part.consumer);
    Product::Result::store(p.result, sums, active, part, writer, ring);
  }
}

template <typename Product>
__global__ void __launch_bounds__(kThreads, 1)
    row_product_kernel(const __grid_constant__ typename Product::Parameters p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  Ring<typename Product::Shape> ring((shared_address(shared) + 1023) & ~1023U);
  if (threadIdx.x == 0) ring.init(Product::kGathered ? 1 + kWarpgroup : 1);
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
void run(const Context& ctx, typename Product::Parameters& p, const IndexedRows& left, const Tensor& right,
         const Experts& experts, int columns) {
  using Shape = typename Product::Shape;
  if constexpr (Product::kGathered)
    p.gathered = pair_rows(left.pair, left.index);
  else
    p.left = matrix_map(left.pair.local);
  p.right = weights_map(right, Product::kTransposed ? kDepth : Shape::kColumns / 2);
  p.experts = experts;
  p.depth = static_cast<int>(right.dim(Product::kTransposed ? 1 : 2));
  p.column_blocks = (columns + p.tile_columns - 1) / p.tile_columns;
  std::int64_t tiles = 0;
  for (int e = 0; e < experts.count; ++e)
    tiles += (experts.begin[e + 1] - experts.begin[e] + Shape::kRows - 1) / Shape::kRows * p.column_blocks;
  launch(row_product_kernel<Product>, persistent_grid(ctx.device(), tiles), Block(kThreads),
         Shape::kSharedBytes, stream(ctx.device()), p);
}

template <typename Shape, Activation kActivation>
void up(const Context& ctx, const Experts& experts, const IndexedRows& x, const Tensor& w1,
        const Tensor& weights, const Tensor& h, const Tensor& a) {
  using Product = RowProduct<Shape, true, false, Activate<Shape, kActivation>>;
  constexpr bool kGated = kActivation == Activation::swiglu;
  const auto ffn = static_cast<int>(w1.dim(1)) / (kGated ? 2 : 1);
  typename Product::Parameters p{};
  p.tile_columns = kGated ? Shape::kColumns / 2 : Shape::kColumns;
  p.second_half = kGated ? ffn : Shape::kColumns / 2;
  p.result = {h.data<bf16>(), a.defined() ? a.data<bf16>() : nullptr,
              weights.defined() ? weights.data<float>() : nullptr, ffn};
  run<Product>(ctx, p, x, w1, experts, ffn);
}

template <typename Shape, bool kTransposed>
void scattered(const Context& ctx, const Experts& experts, const Tensor& rows, const Tensor& weights,
               const RowPair& to, const Tensor& destination) {
  using Product = RowProduct<Shape, false, kTransposed, Scatter<Shape>>;
  const auto width = static_cast<int>(to.local.dim(1));
  typename Product::Parameters p{};
  p.tile_columns = Shape::kColumns;
  p.second_half = Shape::kColumns / 2;
  p.result = {output_pair(to, destination)};
  run<Product>(ctx, p, {{rows, {}}, {}}, weights, experts, width);
}

template <typename Shape, Activation kActivation>
void gradient(const Context& ctx, const Experts& experts, const IndexedRows& dy, const Tensor& w2,
              const Tensor& weights, const Tensor& h, const Tensor& dh, const Tensor& a,
              const Tensor& partial_sums) {
  using Product = RowProduct<Shape, true, true, ActivationGradient<Shape, kActivation>>;
  const auto ffn = static_cast<int>(w2.dim(2));
  typename Product::Parameters p{};
  p.tile_columns = Shape::kColumns;
  p.result = {matrix_map(h),
              dh.data<bf16>(),
              a.data<bf16>(),
              weights.defined() ? weights.data<float>() : nullptr,
              partial_sums.defined() ? partial_sums.data<float>() : nullptr,
              ffn,
              static_cast<int>(h.dim(0))};
  run<Product>(ctx, p, dy, w2, experts, ffn);
}

// Calls f with the shape of tile and the activation as constants.
template <typename F>
void with_shape(bool wide, F&& f) {
  if (wide)
    f.template operator()<WideTile>();
  else
    f.template operator()<TallTile>();
}

template <typename F>
void with_activation(Activation activation, F&& f) {
  if (activation == Activation::swiglu)
    f.template operator()<Activation::swiglu>();
  else
    f.template operator()<Activation::gelu>();
}

}  // namespace

void up_product(const Context& ctx, Activation activation, bool wide, const Experts& experts,
                const IndexedRows& x, const Tensor& w1, const Tensor& weights, const Tensor& h,
                const Tensor& a) {
  with_shape(wide, [&]<typename Shape>() {
    with_activation(activation, [&]<Activation kActivation>() {
      up<Shape, kActivation>(ctx, experts, x, w1, weights, h, a);
    });
  });
}

void down_product(const Context& ctx, bool wide, const Experts& experts, const Tensor& a, const Tensor& w2,
                  const RowPair& y, const Tensor& destination) {
  with_shape(wide, [&]<typename Shape>() { scattered<Shape, false>(ctx, experts, a, w2, y, destination); });
}

void activation_gradient_product(const Context& ctx, Activation activation, bool wide, const Experts& experts,
                                 const IndexedRows& dy, const Tensor& w2, const Tensor& weights,
                                 const Tensor& h, const Tensor& dh, const Tensor& a,
                                 const Tensor& partial_sums) {
  with_shape(wide, [&]<typename Shape>() {
    with_activation(activation, [&]<Activation kActivation>() {
      gradient<Shape, kActivation>(ctx, experts, dy, w2, weights, h, dh, a, partial_sums);
    });
  });
}

void input_gradient_product(const Context& ctx, bool wide, const Experts& experts, const Tensor& dh,
                            const Tensor& w1, const RowPair& dx, const Tensor& destination) {
  with_shape(wide, [&]<typename Shape>() { scattered<Shape, true>(ctx, experts, dh, w1, dx, destination); });
}

}  // namespace xmoe::gpu::hopper
