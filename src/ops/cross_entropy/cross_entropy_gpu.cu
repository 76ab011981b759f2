// Chunk by chunk of rows, in order: logits = x w^T, softmax of each row, dx = dlogits w, dw += dlogits^T x.
// The products are the vendor's; the kernels between them are bound by the bytes of the logits, which they
// need twice. The second time, for the gradients, they come from where they were kept: as many as fit in
// shared memory, the rest mostly in the second cache.
#include "ops/cross_entropy/cross_entropy_gpu.h"

#include <algorithm>
#include <cmath>

#include "device/gpu.h"
#include "ops/gemm/gemm_gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr FaultKind kOutsideVocabulary{
    "target {value} of row {position} is outside the vocabulary of {bound}", true};

// The most threads of a row: enough reads under way in two blocks of a multiprocessor, each with registers
// for a pack.
constexpr int kRowThreads = 512;
// Blocks of a multiprocessor: while one waits at a barrier, another reads. Not more, so that what is read
// again is still in the second cache.
constexpr int kRowBlocks = 2;
// Of a row's logits in shared memory. Two such blocks fit a multiprocessor of Hopper, one that of Ampere,
// which was not measured; AMD's multiprocessors have less.
constexpr std::size_t kKeptBytes = std::size_t{96} << 10;
// Chunks of whole tiles of the products' rows.
constexpr std::int64_t kRowMultiple = 128;

// Of the logits of a row; a row of VocabularySlice's [rows, 3].
struct Statistics {
  float maximum;
  float sum;  // of exp(logit - maximum)
  float at_target;
};
static_assert(sizeof(Statistics) == 3 * sizeof(float));

constexpr int kElsewhere = -1;  // the target of a row whose word is another slice's

// The rows of a chunk.
struct Chunk {
  const float* logits;         // [rows, columns]
  std::int64_t columns;        // the vocabulary, and padding for wide accesses
  std::int64_t vocabulary;     // of this slice
  const std::int32_t* target;  // [rows]
  std::int64_t first_row;      // of all rows, for messages
  std::int64_t first_word;     // of this slice
  std::int64_t words;          // of all slices

  // Also where the target is none: such rows count for nothing, and the fault is reported.
  __device__ bool ignores(std::int64_t row) const { return target[row] < 0 || target[row] >= words; }
  __device__ std::int64_t target_column(std::int64_t row) const {
    const std::int64_t column = target[row] - first_word;
    return 0 <= column && column < vocabulary ? column : kElsewhere;
  }
};

__device__ float block_maximum(float value, float* partials) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
  if (threadIdx.x % kWarpSize == 0) partials[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / kWarpSize; ++w) value = fmaxf(value, partials[w]);
  return value;
}

// The first packs of a row that a thread reads, for itself alone, in shared memory.
template <int N>
class Kept {
  static constexpr int kTogether = N % 4 == 0 ? 4 : 1;  // what a thread accesses at once, without conflicts

 public:
  __device__ Kept(float* memory, int packs) : memory_(memory), packs_(packs) {}

  __device__ void put(int pack, const float (&x)[N]) const {
    if (pack >= packs_) return;
#pragma unroll
    for (int i = 0; i < N; i += kTogether) {
      float part[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) part[k] = x[i + k];
      store<kTogether>(part, place(pack, i));
    }
  }
  __device__ bool get(int pack, float (&x)[N]) const {
    if (pack >= packs_) return false;
#pragma unroll
    for (int i = 0; i < N; i += kTogether) {
      float part[kTogether];
      load<kTogether>(place(pack, i), part);
#pragma unroll
      for (int k = 0; k < kTogether; ++k) x[i + k] = part[k];
    }
    return true;
  }

 private:
  __device__ float* place(int pack, int i) const {
    return memory_ + (pack * N + i) * static_cast<int>(blockDim.x) +
           static_cast<int>(threadIdx.x) * kTogether;
  }

  float* memory_;
  int packs_;
};

// For all threads of the block. The fast exponential errs by some |x| units in exp(x), which makes up for it
// by being small: of a sum that is at least 1 the error is a fraction of a unit.
template <int N>
__device__ Statistics statistics_of(const Chunk& chunk, std::int64_t row, const Kept<N>& kept) {
  __shared__ float maxima[kRowThreads / kWarpSize];
  __shared__ float sums[kRowThreads / kWarpSize];
  const float* logits = chunk.logits + row * chunk.columns;
  const std::int64_t column = chunk.target_column(row);
  const float at_target = column != kElsewhere ? logits[column] : 0.0F;
  float maximum = -INFINITY;
  float sum[1] = {};
  int pack = 0;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * N; c < chunk.vocabulary;
       c += static_cast<std::int64_t>(blockDim.x) * N) {
    float x[N];
    load<N>(logits + c, x);
    kept.put(pack++, x);
    float higher = maximum;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (c + i >= chunk.vocabulary) x[i] = -INFINITY;
      higher = fmaxf(higher, x[i]);
    }
    if (higher > maximum) {
      sum[0] *= expf(maximum - higher);
      maximum = higher;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (c + i < chunk.vocabulary) sum[0] += __expf(x[i] - maximum);
  }
  const float highest = block_maximum(maximum, maxima);
  if (sum[0] != 0.0F) sum[0] *= expf(maximum - highest);
  block_sums(sum, sums);
  return {highest, sum[0], at_target};
}

// dlogits times `scale`; they may take the place of the logits.
template <int N, typename T>
__device__ void row_gradient(const Chunk& chunk, std::int64_t row, const Statistics& s, float scale,
                             const Kept<N>& kept, T* dlogits) {
  const float* logits = chunk.logits + row * chunk.columns;
  T* d = dlogits + row * chunk.columns;
  const bool ignored = chunk.ignores(row);
  const std::int64_t target = chunk.target_column(row);
  const float factor = scale / s.sum;
  int pack = 0;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * N; c < chunk.columns;
       c += static_cast<std::int64_t>(blockDim.x) * N) {
    float x[N];
    // Columns of padding have not been kept.
    if (c >= chunk.vocabulary || !kept.get(pack++, x)) load<N>(logits + c, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = ignored || c + i >= chunk.vocabulary ? 0.0F : __expf(x[i] - s.maximum) * factor;
      // Subtracting 1 before the rounding to T keeps what is left of a probability near 1.
      if (!ignored && c + i == target) x[i] = (expf(s.at_target - s.maximum) / s.sum - 1.0F) * scale;
    }
    store<N>(x, d + c);
  }
}

// A row per block, in all three kernels: `of_row` and `dlogits` null where they are not wanted.
template <int N, typename T>
__device__ void finish_row(const Chunk& chunk, const Statistics& s, float scale, const Kept<N>& kept,
                           float* losses, T* dlogits) {
  const std::int64_t row = blockIdx.x;
  if (threadIdx.x == 0) losses[row] = chunk.ignores(row) ? 0.0F : s.maximum + logf(s.sum) - s.at_target;
  if (dlogits != nullptr) row_gradient<N>(chunk, row, s, scale, kept, dlogits);
}

__device__ void check_target(const Chunk& chunk, const FaultReport& outside) {
  const std::int32_t target = chunk.target[blockIdx.x];
  if (threadIdx.x == 0 && target != kIgnoredTarget && (target < 0 || target >= chunk.words))
    outside.raise(chunk.first_row + blockIdx.x, target, chunk.words);
}

template <int N, typename T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    whole_kernel(Chunk chunk, float scale, int kept_packs, float* losses, T* dlogits, FaultReport outside) {
  check_target(chunk, outside);
  const Kept<N> kept(dynamic_shared<float>(), kept_packs);
  finish_row<N>(chunk, statistics_of<N>(chunk, blockIdx.x, kept), scale, kept, losses, dlogits);
}

template <int N>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    statistics_kernel(Chunk chunk, Statistics* of_row, FaultReport outside) {
  check_target(chunk, outside);
  const Statistics s = statistics_of<N>(chunk, blockIdx.x, Kept<N>(nullptr, 0));
  if (threadIdx.x == 0) of_row[blockIdx.x] = s;
}

template <int N, typename T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    finish_kernel(Chunk chunk, const Statistics* of_row, float scale, float* losses, T* dlogits) {
  finish_row<N>(chunk, of_row[blockIdx.x], scale, Kept<N>(nullptr, 0), losses, dlogits);
}

__global__ void merge_kernel(const Statistics* parts, std::int64_t slices, std::int64_t rows,
                             Statistics* merged) {
  const std::int64_t r = thread_index();
  if (r >= rows) return;
  Statistics all{-INFINITY, 0.0F, 0.0F};
  for (std::int64_t i = 0; i < slices; ++i) all.maximum = fmaxf(all.maximum, parts[i * rows + r].maximum);
    // Not unrolled: there nvcc 13.0 moves the load of the maximum behind the condition and takes the sum
    // instead.
#pragma unroll 1
  for (std::int64_t i = 0; i < slices; ++i) {
    const Statistics s = parts[i * rows + r];
    if (s.sum != 0.0F) all.sum += s.sum * expf(s.maximum - all.maximum);
    all.at_target += s.at_target;
  }
  merged[r] = all;
}

// Equal chunks rather than full ones and a rest. From shapes that are the same for all slices.
std::int64_t chunk_rows(std::int64_t rows, std::int64_t row_bytes, std::int64_t chunk_bytes) {
  const std::int64_t fitting = std::max(
      kRowMultiple, chunk_bytes / std::max<std::int64_t>(1, row_bytes) / kRowMultiple * kRowMultiple);
  const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(rows, fitting));
  return std::min(rows, ceil_div(ceil_div(rows, chunks), kRowMultiple) * kRowMultiple);
}

struct Arguments {
  Tensor x, w, targets, losses;
  std::int64_t vocabulary;
  float grad_scale;
  Tensor dx, dw;
  const VocabularySlice* slice;
};

// Losses and gradients of a chunk from its logits.
template <int N, typename T>
void finish_chunk(const Context& ctx, const Arguments& args, const Chunk& chunk, std::int64_t rows,
                  T* dlogits) {
  const Stream queue = stream(ctx.device());
  const auto packs = static_cast<unsigned>(std::min<std::int64_t>(ceil_div(chunk.columns, N), kRowThreads));
  const Block block(static_cast<unsigned>(ceil_div(std::max(1U, packs), kWarpSize)) * kWarpSize);
  const Grid grid = grid_of(rows, 1);
  const FaultReport outside(ctx.device(), kOutsideVocabulary);
  float* losses = args.losses.data<float>() + chunk.first_row;
  if (args.slice == nullptr) {
    const std::size_t pack_bytes = block.x * N * sizeof(float);
    const auto most = static_cast<int>(ceil_div(chunk.vocabulary, static_cast<std::int64_t>(block.x) * N));
    const int kept = dlogits == nullptr ? 0 : std::min(most, static_cast<int>(kKeptBytes / pack_bytes));
    launch(whole_kernel<N, T>, grid, block, static_cast<std::size_t>(kept) * pack_bytes, queue, chunk,
           args.grad_scale, kept, losses, dlogits, outside);
    return;
  }
  const ArenaScope scope(ctx.workspace);
  const Tensor statistics = ctx.workspace.tensor(DType::f32, {rows, 3});
  auto* of_row = reinterpret_cast<Statistics*>(statistics.data<float>());
  launch(statistics_kernel<N>, grid, block, 0, queue, chunk, of_row, outside);
  args.slice->merge(statistics);
  launch(finish_kernel<N, T>, grid, block, 0, queue, chunk, of_row, args.grad_scale, losses, dlogits);
}

template <typename T>
void run(const Context& ctx, const Arguments& args, std::int64_t columns, std::int64_t chunk_size) {
  const ArenaScope scope(ctx.workspace);
  const std::int64_t rows = args.x.dim(0);
  const bool gradients = args.dx.defined();
  const Tensor w = args.w.slice(0, columns);
  const Tensor chunk_logits = ctx.workspace.tensor(DType::f32, {chunk_size, columns});
  const bool in_place = args.x.dtype() == DType::f32;
  const Tensor chunk_dlogits =
      in_place || !gradients ? chunk_logits : ctx.workspace.tensor(args.x.dtype(), {chunk_size, columns});
  for (std::int64_t begin = 0; begin < rows; begin += chunk_size) {
    const std::int64_t end = std::min(rows, begin + chunk_size);
    const Tensor x = args.x.slice(begin, end);
    const Tensor logits = chunk_logits.slice(0, end - begin);
    const Tensor dlogits = chunk_dlogits.slice(0, end - begin);
    gpu::gemm(ctx, x, w, logits, kTimesTransposed);
    const Chunk chunk{.logits = logits.data<float>(),
                      .columns = columns,
                      .vocabulary = args.vocabulary,
                      .target = args.targets.data<std::int32_t>() + begin,
                      .first_row = begin,
                      .first_word = args.slice != nullptr ? args.slice->first : 0,
                      .words = args.slice != nullptr ? args.slice->words : args.vocabulary};
    with_pack(columns % kPack == 0, [&]<int N>() {
      finish_chunk<N>(ctx, args, chunk, end - begin, gradients ? static_cast<T*>(dlogits.raw()) : nullptr);
    });
    if (!gradients) continue;
    gpu::gemm(ctx, dlogits, w, args.dx.slice(begin, end), {});
    gpu::gemm(ctx, dlogits, x, args.dw.slice(0, columns), kAccumulateTransposed);
  }
}

}  // namespace

void merge_statistics(const Context& ctx, const Tensor& parts, const Tensor& merged) {
  check_device(ctx.device(), {parts, merged});
  const std::int64_t rows = parts.dim(1);
  launch(merge_kernel, grid_of(rows, kBlockThreads), Block(kBlockThreads), 0, stream(ctx.device()),
         reinterpret_cast<const Statistics*>(parts.data<float>()), parts.dim(0), rows,
         reinterpret_cast<Statistics*>(merged.data<float>()));
}

void linear_cross_entropy(const Context& ctx, const Tensor& x, const Tensor& w, std::int64_t vocabulary,
                          const Tensor& targets, const Tensor& losses, float grad_scale, const Tensor& dx,
                          const Tensor& dw, const VocabularySlice* slice, std::int64_t chunk_bytes) {
  check_device(ctx.device(), {x, w, targets, losses, dx, dw});
  // Rows of logits that begin on no 16 bytes slow products and kernels down several times. So up to 7 rows of
  // padding take part where there are any: their logits count for nothing and their gradients are 0.
  const std::int64_t columns = std::min(w.dim(0), ceil_div(vocabulary, kPack) * kPack);
  const std::int64_t width = x.dtype() == DType::f32 ? sizeof(float) : sizeof(float) + size_of(x.dtype());
  const std::int64_t chunk = chunk_rows(x.dim(0), w.dim(0) * width, chunk_bytes);
  const Arguments args{x, w, targets, losses, vocabulary, grad_scale, dx, dw, slice};
  with_float(x.dtype(), [&]<typename T>(T) { run<T>(ctx, args, columns, chunk); });
}

}  // namespace xmoe::gpu
