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
  int depth;    // K
  int columns;  // of products, unless the halves of a tile are two parts of the result
  int column_blocks;
  int tile_columns;  // from one tile to the next
  int second_half;   // from the first half of a tile's columns to the second
  typename Result::Parameters result;
};

template <bool kGatheredLeft, bool kTransposedRight, typename ResultOfTile>
struct RowProduct {
  using Result = ResultOfTile;
  using Parameters = RowProductParameters<Result>;
  static constexpr bool kGathered = kGatheredLeft, kTransposed = kTransposedRight;
};

constexpr int kNeverPartial = 1 << 30;  // columns

template <typename Product>
__device__ int tile_rows(const typename Product::Parameters& p, const Tile& tile, int& row) {
  row = p.experts.begin[tile.expert] + tile.row_block * kRows;
  return min(kRows, p.experts.begin[tile.expert + 1] - row);
}

// Tiles that are not full take less time and, of few experts, come behind all others: blocks then end nearer
// to each other. Of many experts the columns' operand would be read once more for them, and the last expert's
// are few. Unused in the code for other GPUs, where the kernel is empty.
[[maybe_unused]] __device__ inline bool partial_tiles_last(const Experts& experts) {
  constexpr int kFewExperts = 8;
  return experts.count <= kFewExperts;
}

template <typename Product>
__device__ TileList tile_list(const typename Product::Parameters& p) {
  return {p.experts.count * (partial_tiles_last(p.experts) ? 2 : 1), p.column_blocks};
}

template <typename Product>
__device__ bool find(const typename Product::Parameters& p, TileList& tiles, int number, Tile& tile) {
  return tiles.find(number, tile, [&](int group) -> BlocksOfRows {
    const int count = p.experts.count;
    const int expert = group < count ? group : group - count;
    const int rows = p.experts.begin[expert + 1] - p.experts.begin[expert];
    const int full = rows / kRows;
    const int all = (rows + kRows - 1) / kRows;
    if (!partial_tiles_last(p.experts)) return {expert, 0, all};
    return group < count ? BlocksOfRows{expert, 0, full} : BlocksOfRows{expert, full, all - full};
  });
}

// By one thread.
template <typename Product>
__device__ void load_boxes(const typename Product::Parameters& p, const Tile& tile, int row, int blocks,
                           int term, std::uint32_t to, std::uint32_t barrier) {
  const std::uint32_t right = to + kLeftBytes;
  const int column = tile.column_block * p.tile_columns;
  if constexpr (Product::kTransposed) {
    for (int c = 0; c < kColumns / kDepth; ++c)
      copy_box(right + c * kBlockBytes, &p.right, column + c * kDepth, term, tile.expert, barrier);
  } else {
    copy_box(right, &p.right, term, column, tile.expert, barrier);
    copy_box(right + kColumns / 2 * kRowBytes, &p.right, term, column + p.second_half, tile.expert, barrier);
  }
  if constexpr (!Product::kGathered) {
#pragma unroll
    for (int b = 0; b < kRows / kBlockRows; ++b)
      if (b < blocks) copy_box(to + b * kBlockBytes, &p.left, term, row + b * kBlockRows, barrier);
  }
}

template <typename Product>
__device__ void load_tiles(const typename Product::Parameters& p, Ring ring) {
  using Result = typename Product::Result;
  const bool leader = threadIdx.x == 0;
  if (!Product::kGathered && !leader) return;
  TileList tiles = tile_list<Product>(p);
  TakenTiles<Product::kGathered> taken(p.experts, ring);
  Tile tile;
  for (; find<Product>(p, tiles, taken.number(), tile); taken.next()) {
    taken.ask();
    int row = 0;
    const int rows = tile_rows<Product>(p, tile, row);
    const int blocks = (rows + kBlockRows - 1) / kBlockRows;
    if constexpr (Result::kExtraStages > 0)
      if (leader) Result::prefetch(p.result, row, blocks, tile.column_block * p.tile_columns);
    const auto load = [&](RowGather* gather) {
      for (int term = 0; term < p.depth; term += kDepth) {
        ring.wait_empty();
        if (leader) {
          if (term == 0) ring.put_tile(taken.number());
          barrier_arrive_expecting(ring.full(ring.stage()),
                                   kColumns * kRowBytes + (Product::kGathered ? 0 : blocks * kBlockBytes));
          load_boxes<Product>(p, tile, row, blocks, term, ring.address(), ring.full(ring.stage()));
        }
        if constexpr (Product::kGathered) {
          gather->load(ring.address());
          arrive_after_copies(ring.full(ring.stage()));
          gather->advance();
        }
        ring.advance();
      }
    };
    if constexpr (Product::kGathered) {
      RowGather gather(p.gathered, row, rows);
      load(&gather);
    } else {
      load(nullptr);
    }
    if constexpr (Result::kExtraStages > 0) {
      for (int s = 0; s < Result::kExtraStages; ++s) {
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
  tell_the_end<Product::kGathered>(ring, taken.number());
}

template <typename Product>
__device__ void multiply_tiles(const typename Product::Parameters& p, Ring ring) {
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  Part part{};
  part.consumer = thread / kWarpgroup;
  part.warp = thread % kWarpgroup / kWarpSize;
  part.lane = lane_index();
  Staging staging(ring.staging(thread / kWarpSize));
  TileList tiles = tile_list<Product>(p);
  Tile tile;
  bool first = true;
  while (find<Product>(p, tiles, received_tile(ring), tile)) {
    part.rows = tile_rows<Product>(p, tile, part.row);
    part.column_block = tile.column_block;
    part.column = tile.column_block * p.tile_columns;
    const int stages = p.depth / kDepth;
    if (first) fall_behind(ring, part.consumer, stages);
    first = false;
    float sums[kSums];
    sum_tile<Operands<typename Product::Result::Element, false, Product::kTransposed, Product::kGathered>>(
        sums, part.rows, p.columns - part.column, ring, stages, part.consumer);
    Product::Result::store(p.result, sums, part, staging, ring);
  }
}

template <typename Product>
__global__ void __launch_bounds__(kThreads, 1)
    row_product_kernel(const __grid_constant__ typename Product::Parameters p) {
#if defined(XMOE_HOPPER_CODE)
  extern __shared__ char shared[];
  Ring ring((shared_address(shared) + 1023) & ~1023U);
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
  if constexpr (Product::kGathered)
    p.gathered = pair_rows(left.pair, left.index);
  else
    p.left = matrix_map(left.pair.local);
  p.right = weights_map(right, Product::kTransposed ? kDepth : kColumns / 2);
  p.experts = experts;
  p.depth = static_cast<int>(right.dim(Product::kTransposed ? 1 : 2));
  p.columns = p.tile_columns < kColumns ? kNeverPartial : columns;
  p.column_blocks = (columns + p.tile_columns - 1) / p.tile_columns;
  std::int64_t tiles = 0;
  for (int e = 0; e < experts.count; ++e)
    tiles += (experts.begin[e + 1] - experts.begin[e] + kRows - 1) / kRows * p.column_blocks;
  launch(row_product_kernel<Product>, persistent_grid(ctx.device(), tiles), Block(kThreads), kSharedBytes,
         stream(ctx.device()), p);
}

template <typename T, Activation kActivation>
void up(const Context& ctx, const Experts& experts, const IndexedRows& x, const Tensor& w1,
        const Tensor& weights, const Tensor& h, const Tensor& a) {
  using Product = RowProduct<true, false, Activate<T, kActivation>>;
  constexpr bool kGated = kActivation == Activation::swiglu;
  const auto ffn = static_cast<int>(w1.dim(1)) / (kGated ? 2 : 1);
  typename Product::Parameters p{};
  p.tile_columns = kGated ? kColumns / 2 : kColumns;
  p.second_half = kGated ? ffn : kColumns / 2;
  p.result = {static_cast<Half*>(h.raw()), a.defined() ? static_cast<Half*>(a.raw()) : nullptr,
              weights.defined() ? weights.data<float>() : nullptr, ffn};
  run<Product>(ctx, p, x, w1, experts, ffn);
}

template <typename T, bool kTransposed>
void scattered(const Context& ctx, const Experts& experts, const Tensor& rows, const Tensor& weights,
               const RowPair& to, const Tensor& destination) {
  using Product = RowProduct<false, kTransposed, Scatter<T>>;
  const auto width = static_cast<int>(to.local.dim(1));
  typename Product::Parameters p{};
  p.tile_columns = kColumns;
  p.second_half = kColumns / 2;
  p.result = {pair_rows(to, destination)};
  run<Product>(ctx, p, {{rows, {}}, {}}, weights, experts, width);
}

template <typename T, Activation kActivation>
void gradient(const Context& ctx, const Experts& experts, const IndexedRows& dy, const Tensor& w2,
              const Tensor& weights, const Tensor& h, const Tensor& dh, const Tensor& a,
              const Tensor& partial_sums) {
  using Product = RowProduct<true, true, ActivationGradient<T, kActivation>>;
  const auto ffn = static_cast<int>(w2.dim(2));
  typename Product::Parameters p{};
  p.tile_columns = kColumns;
  p.result = {matrix_map(h),
              static_cast<Half*>(dh.raw()),
              static_cast<Half*>(a.raw()),
              weights.defined() ? weights.data<float>() : nullptr,
              partial_sums.defined() ? partial_sums.data<float>() : nullptr,
              ffn,
              static_cast<int>(h.dim(0))};
  run<Product>(ctx, p, dy, w2, experts, ffn);
}

// Calls f with the type of the elements and the activation as a constant.
template <typename F>
void with_activation(DType dtype, Activation activation, F&& f) {
  with_half({dtype}, [&]<typename T>(T) {
    if (activation == Activation::swiglu)
      f.template operator()<T, Activation::swiglu>();
    else
      f.template operator()<T, Activation::gelu>();
  });
}

}  // namespace

void up_product(const Context& ctx, Activation activation, const Experts& experts, const IndexedRows& x,
                const Tensor& w1, const Tensor& weights, const Tensor& h, const Tensor& a) {
  with_activation(h.dtype(), activation, [&]<typename T, Activation kActivation>() {
    up<T, kActivation>(ctx, experts, x, w1, weights, h, a);
  });
}

void down_product(const Context& ctx, const Experts& experts, const Tensor& a, const Tensor& w2,
                  const RowPair& y, const Tensor& destination) {
  with_half({a.dtype()}, [&]<typename T>(T) { scattered<T, false>(ctx, experts, a, w2, y, destination); });
}

void activation_gradient_product(const Context& ctx, Activation activation, const Experts& experts,
                                 const IndexedRows& dy, const Tensor& w2, const Tensor& weights,
                                 const Tensor& h, const Tensor& dh, const Tensor& a,
                                 const Tensor& partial_sums) {
  with_activation(h.dtype(), activation, [&]<typename T, Activation kActivation>() {
    gradient<T, kActivation>(ctx, experts, dy, w2, weights, h, dh, a, partial_sums);
  });
}

void input_gradient_product(const Context& ctx, const Experts& experts, const Tensor& dh, const Tensor& w1,
                            const RowPair& dx, const Tensor& destination) {
  with_half({dh.dtype()}, [&]<typename T>(T) { scattered<T, true>(ctx, experts, dh, w1, dx, destination); });
}

}  // namespace xmoe::gpu::hopper
