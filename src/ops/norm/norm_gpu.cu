// All are bound by bytes. A block goes over one row at a time, kPack elements a thread where rows allow it; a
// row is read from memory once and from the first cache when it is gone over again.
#include "ops/norm/norm_gpu.h"

#include <algorithm>

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

// Threads of all blocks of backward, each of which has one partial sum of the weight gradients: they keep a
// GPU of up to 128 multiprocessors busy, and partial sums are a small share of the rows of a training step.
// Fixed, so that results do not depend on the GPU.
constexpr std::int64_t kBackwardThreads = std::int64_t{128} * 1024;
constexpr int kWarpsOfBlock = kBlockThreads / kWarpSize;

// Threads for one row: whole warps.
Block block_of_row(std::int64_t width, int pack) {
  const std::int64_t warps = ceil_div(ceil_div(width, pack), kWarpSize);
  return Block(static_cast<unsigned>(std::min<std::int64_t>(warps, kWarpsOfBlock)) * kWarpSize);
}

// The rounding of every step is written out: forward and recompute give the same bits.
template <NormKind kind, int N, typename T>
__device__ void normalise(const T* x, const T* weight, const T* bias, float mean, float inverse, T* y) {
  float value[N];
  float w[N];
  load<N>(x, value);
  load<N>(weight, w);
  if constexpr (kind == NormKind::layer_norm) {
    float b[N];
    load<N>(bias, b);
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = fmaf(__fmul_rn(__fsub_rn(value[i], mean), inverse), w[i], b[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = __fmul_rn(__fmul_rn(value[i], inverse), w[i]);
  }
  store<N>(value, y);
}

// One row per block. Shared memory: the partial sums of the warps.
template <NormKind kind, int N, typename T>
__global__ void forward_kernel(const T* x, const T* weight, const T* bias, float epsilon, std::int64_t width,
                               T* y, float* stats) {
  __shared__ float partials[kWarpsOfBlock];
  const T* row = x + blockIdx.x * width;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * N;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * N;
  const auto count = static_cast<float>(width);
  float mean = 0.0F;
  if constexpr (kind == NormKind::layer_norm) {
    float sum[1] = {};
    for (std::int64_t c = first; c < width; c += step) {
      float value[N];
      load<N>(row + c, value);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[0] += value[i];
    }
    block_sums(sum, partials);
    mean = sum[0] / count;
  }
  float squares[1] = {};
  for (std::int64_t c = first; c < width; c += step) {
    float value[N];
    load<N>(row + c, value);
#pragma unroll
    for (int i = 0; i < N; ++i) squares[0] += (value[i] - mean) * (value[i] - mean);
  }
  block_sums(squares, partials);
  const float inverse = 1.0F / sqrtf(squares[0] / count + epsilon);
  if (threadIdx.x == 0) {
    stats[2 * blockIdx.x] = mean;
    stats[2 * blockIdx.x + 1] = inverse;
  }
  for (std::int64_t c = first; c < width; c += step)
    normalise<kind, N>(row + c, weight + c, bias + c, mean, inverse, y + blockIdx.x * width + c);
}

// One row per block.
template <NormKind kind, int N, typename T>
__global__ void recompute_kernel(const T* x, const T* weight, const T* bias, const float* stats,
                                 std::int64_t width, T* y) {
  const std::int64_t row = blockIdx.x * width;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * N; c < width;
       c += static_cast<std::int64_t>(blockDim.x) * N)
    normalise<kind, N>(x + row + c, weight + c, bias + c, stats[2 * blockIdx.x], stats[2 * blockIdx.x + 1],
                       y + row + c);
}

// The usual backward: packs of a row that is at most kHeld packs a thread wide stay in registers, and where
// one pack a thread is enough, two rows are under way together. A block takes `rows_of_block` rows in order.
constexpr int kHeld = 2;
constexpr int kHeldThreads = 512;
template <NormKind kind, int kPacks, typename T>
__global__ void __launch_bounds__(kHeldThreads)
    backward_held_kernel(const T* dy, const T* x, const T* weight, const float* stats, std::int64_t rows,
                         std::int64_t rows_of_block, std::int64_t width, T* dx, float* partials) {
  constexpr bool kLayer = kind == NormKind::layer_norm;
  constexpr int N = kPack;
  constexpr int kRows = kHeld / kPacks;
  __shared__ float warp_partials[2 * kRows * kHeldThreads / kWarpSize];
  float w[kPacks][N];
  float weight_sums[kPacks][N] = {};
  float bias_sums[kPacks][N] = {};
  std::int64_t column[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    column[p] = (static_cast<std::int64_t>(p) * blockDim.x + threadIdx.x) * N;
    if (column[p] < width) load<N>(weight + column[p], w[p]);
  }
  const auto count = static_cast<float>(width);
  const std::int64_t begin = blockIdx.x * rows_of_block;
  const std::int64_t end = begin + rows_of_block < rows ? begin + rows_of_block : rows;
  for (std::int64_t first = begin; first < end; first += kRows) {
    float d[kHeld][N];
    float n[kHeld][N];
    float total[kHeld][N];
    float inverse[kRows];
    float means[2 * kRows] = {};  // of a row's g = dy * weight, and of g n
#pragma unroll
    for (int s = 0; s < kHeld; ++s) {
      const std::int64_t at = (first + s / kPacks) * width + column[s % kPacks];
      if (first + s / kPacks >= end || column[s % kPacks] >= width) continue;
      load<N>(dy + at, d[s]);
      load<N>(x + at, n[s]);
      load<N>(dx + at, total[s]);
    }
#pragma unroll
    for (int s = 0; s < kHeld; ++s) {
      const int r = s / kPacks;
      const int p = s % kPacks;
      if (first + r >= end) continue;
      const float mean = stats[2 * (first + r)];
      inverse[r] = stats[2 * (first + r) + 1];
      if (column[p] >= width) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        n[s][i] = (n[s][i] - mean) * inverse[r];
        const float g = d[s][i] * w[p][i];
        if constexpr (kLayer) means[2 * r] += g;
        means[2 * r + 1] += g * n[s][i];
      }
    }
    block_sums(means, warp_partials);
#pragma unroll
    for (int s = 0; s < kHeld; ++s) {
      const int r = s / kPacks;
      const int p = s % kPacks;
      if (first + r >= end || column[p] >= width) continue;
      const float mean_g = means[2 * r] / count;
      const float mean_gn = means[2 * r + 1] / count;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        total[s][i] += inverse[r] * (d[s][i] * w[p][i] - mean_g - n[s][i] * mean_gn);
        weight_sums[p][i] += d[s][i] * n[s][i];
        if constexpr (kLayer) bias_sums[p][i] += d[s][i];
      }
      store<N>(total[s], dx + (first + r) * width + column[p]);
    }
  }
  float* mine = partials + blockIdx.x * (kLayer ? 2 * width : width);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (column[p] >= width) continue;
    store<N>(weight_sums[p], mine + column[p]);
    if constexpr (kLayer) store<N>(bias_sums[p], mine + width + column[p]);
  }
}

// The backward of any row. What it needs of N elements: n = (x - mean) / deviation and g = dy * weight.
template <int N, typename T>
__device__ void load_gradient(const T* dy, const T* x, const T* weight, float mean, float inverse,
                              float (&d)[N], float (&n)[N], float (&g)[N]) {
  load<N>(dy, d);
  load<N>(x, n);
  load<N>(weight, g);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    n[i] = (n[i] - mean) * inverse;
    g[i] *= d[i];
  }
}

// A block takes `rows_of_block` rows in order. Every thread keeps to its columns of `sums`, the block's sums
// of dweight and, behind them, of dbias: in shared memory where they fit, else in their place in `partials`.
template <NormKind kind, int N, typename T>
__global__ void backward_kernel(const T* dy, const T* x, const T* weight, const float* stats,
                                std::int64_t rows, std::int64_t rows_of_block, std::int64_t width, T* dx,
                                float* partials, bool in_shared) {
  float* shared = dynamic_shared<float>();
  __shared__ float warp_partials[2 * kWarpsOfBlock];
  constexpr bool kLayer = kind == NormKind::layer_norm;
  const std::int64_t stride = kLayer ? 2 * width : width;
  float* mine = partials + blockIdx.x * stride;
  float* sums = in_shared ? shared : mine;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * N;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * N;
  for (std::int64_t c = first; c < width; c += step)
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums[c + i] = 0.0F;
      if constexpr (kLayer) sums[width + c + i] = 0.0F;
    }
  const auto count = static_cast<float>(width);
  const std::int64_t begin = blockIdx.x * rows_of_block;
  const std::int64_t end = begin + rows_of_block < rows ? begin + rows_of_block : rows;
  for (std::int64_t t = begin; t < end; ++t) {
    const float mean = stats[2 * t];
    const float inverse = stats[2 * t + 1];
    const std::int64_t row = t * width;
    float means[2] = {};  // of g and of g n
    for (std::int64_t c = first; c < width; c += step) {
      float d[N];
      float n[N];
      float g[N];
      load_gradient<N>(dy + row + c, x + row + c, weight + c, mean, inverse, d, n, g);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if constexpr (kLayer) means[0] += g[i];
        means[1] += g[i] * n[i];
      }
    }
    block_sums(means, warp_partials);
    means[0] /= count;
    means[1] /= count;
    for (std::int64_t c = first; c < width; c += step) {
      float d[N];
      float n[N];
      float g[N];
      float total[N];
      load_gradient<N>(dy + row + c, x + row + c, weight + c, mean, inverse, d, n, g);
      load<N>(dx + row + c, total);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        total[i] += inverse * (g[i] - means[0] - n[i] * means[1]);
        sums[c + i] += d[i] * n[i];
        if constexpr (kLayer) sums[width + c + i] += d[i];
      }
      store<N>(total, dx + row + c);
    }
  }
  if (!in_shared) return;
  for (std::int64_t c = first; c < width; c += step)
#pragma unroll
    for (int i = 0; i < N; ++i) {
      mine[c + i] = sums[c + i];
      if constexpr (kLayer) mine[width + c + i] = sums[width + c + i];
    }
}

// total += the sum of `count` rows of partial sums, `stride` apart. A block takes kColumns columns; its
// kGroups groups of threads sum the rows of their share in order, and then the shares are summed in order.
constexpr int kColumns = 32;
constexpr int kGroups = 8;
__global__ void add_partials_kernel(const float* partials, std::int64_t count, std::int64_t stride,
                                    std::int64_t width, float* total) {
  __shared__ float shares[kGroups][kColumns];
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const std::int64_t share = (count + kGroups - 1) / kGroups;
  const std::int64_t begin = threadIdx.y * share;
  const std::int64_t end = begin + share < count ? begin + share : count;
  float sum = 0.0F;
  if (c < width)
#pragma unroll 8
    for (std::int64_t b = begin; b < end; ++b) sum += partials[b * stride + c];
  shares[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= width) return;
  for (int g = 1; g < kGroups; ++g) sum += shares[g][threadIdx.x];
  total[c] += sum;
}

void add_partials(const Context& ctx, const float* partials, std::int64_t count, std::int64_t stride,
                  std::int64_t width, const Tensor& total) {
  launch(add_partials_kernel, grid_of(width, kColumns), Block(kColumns, kGroups), 0, stream(ctx.device()),
         partials, count, stride, width, total.data<float>());
}

// Calls f with the kind, the elements of an access and the element type as constants.
template <typename F>
void dispatch(NormKind kind, DType dtype, bool packed, F&& f) {
  with_float(dtype, [&]<typename T>(T) {
    with_pack(packed, [&]<int N>() {
      if (kind == NormKind::rms_norm)
        f.template operator()<NormKind::rms_norm, N, T>();
      else
        f.template operator()<NormKind::layer_norm, N, T>();
    });
  });
}

const void* raw_or_null(const Tensor& t) { return t.defined() ? t.raw() : nullptr; }

}  // namespace

void norm_forward(const Context& ctx, NormKind kind, float epsilon, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, const Tensor& y, const Tensor& stats) {
  check_device(ctx.device(), {x, weight, bias, y, stats});
  const std::int64_t width = x.dim(1);
  const bool packed = packable(width, {x.raw(), weight.raw(), raw_or_null(bias), y.raw()});
  dispatch(kind, x.dtype(), packed, [&]<NormKind k, int N, typename T>() {
    const T* b = k == NormKind::layer_norm ? bias.data<T>() : nullptr;
    launch(forward_kernel<k, N, T>, grid_of(x.dim(0), 1), block_of_row(width, N), 0, stream(ctx.device()),
           x.data<T>(), weight.data<T>(), b, epsilon, width, y.data<T>(), stats.data<float>());
  });
}

void norm_recompute(const Context& ctx, NormKind kind, const Tensor& x, const Tensor& weight,
                    const Tensor& bias, const Tensor& stats, const Tensor& y) {
  check_device(ctx.device(), {x, weight, bias, stats, y});
  const std::int64_t width = x.dim(1);
  const bool packed = packable(width, {x.raw(), weight.raw(), raw_or_null(bias), y.raw()});
  dispatch(kind, x.dtype(), packed, [&]<NormKind k, int N, typename T>() {
    const T* b = k == NormKind::layer_norm ? bias.data<T>() : nullptr;
    launch(recompute_kernel<k, N, T>, grid_of(x.dim(0), 1), block_of_row(width, N), 0, stream(ctx.device()),
           x.data<T>(), weight.data<T>(), b, stats.data<float>(), width, y.data<T>());
  });
}

void norm_backward(const Context& ctx, NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& weight,
                   const Tensor& stats, const Tensor& dx, const Tensor& dweight, const Tensor& dbias) {
  check_device(ctx.device(), {dy, x, weight, stats, dx, dweight, dbias});
  const std::int64_t rows = x.dim(0);
  const std::int64_t width = x.dim(1);
  if (rows == 0) return;
  const bool has_bias = kind == NormKind::layer_norm;
  const bool packed = packable(width, {dy.raw(), x.raw(), weight.raw(), dx.raw()});
  const std::int64_t row_packs = ceil_div(width, kPack);
  const bool held = packed && row_packs <= kHeld * kHeldThreads;
  const std::int64_t packs = held ? ceil_div(row_packs, kHeldThreads) : 0;  // of a thread
  const Block block =
      held ? Block(static_cast<unsigned>(ceil_div(ceil_div(row_packs, packs), kWarpSize)) * kWarpSize)
           : block_of_row(width, packed ? kPack : 1);
  const std::int64_t rows_of_block = ceil_div(rows, kBackwardThreads / block.x);
  const std::int64_t blocks = ceil_div(rows, rows_of_block);
  const std::int64_t stride = has_bias ? 2 * width : width;
  const ArenaScope scope(ctx.workspace);
  const Tensor partials = ctx.workspace.tensor(DType::f32, {blocks, stride});
  // Four blocks of a multiprocessor share what the smallest supported one has, 164 KB, with room for static
  // shared memory.
  constexpr std::int64_t kSharedBytes = 40 << 10;
  const std::int64_t sum_bytes = stride * static_cast<std::int64_t>(sizeof(float));
  const bool in_shared = sum_bytes <= kSharedBytes;
  const Stream queue = stream(ctx.device());
  dispatch(kind, x.dtype(), packed, [&]<NormKind k, int N, typename T>() {
    const auto call_held = [&]<int kPacks>() {
      launch(backward_held_kernel<k, kPacks, T>, grid_of(blocks, 1), block, 0, queue, dy.data<T>(),
             x.data<T>(), weight.data<T>(), stats.data<float>(), rows, rows_of_block, width, dx.data<T>(),
             partials.data<float>());
    };
    if (packs == 1) return call_held.template operator()<1>();
    if (packs == 2) return call_held.template operator()<2>();
    launch(backward_kernel<k, N, T>, grid_of(blocks, 1), block,
           in_shared ? static_cast<std::size_t>(sum_bytes) : 0, queue, dy.data<T>(), x.data<T>(),
           weight.data<T>(), stats.data<float>(), rows, rows_of_block, width, dx.data<T>(),
           partials.data<float>(), in_shared);
  });
  add_partials(ctx, partials.data<float>(), blocks, stride, width, dweight);
  if (has_bias) add_partials(ctx, partials.data<float>() + width, blocks, stride, width, dbias);
}

}  // namespace xmoe::gpu
