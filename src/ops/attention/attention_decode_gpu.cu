// One query per sequence and head, bound by the bytes of the cache. The keys are cut into parts of
// kPartKeys, so that a long cache keeps the GPU busy whatever the batch; a second kernel puts the parts
// together, in order.
#include <cmath>

#include "device/gpu.h"
#include "ops/attention/attention_gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

// Long against what a part costs besides its keys, short enough for a hundred parts of a long cache.
constexpr int kPartKeys = 256;
constexpr int kDecodeThreads = 256;

struct Cache {
  std::int64_t capacity, length;  // positions
  std::int64_t heads, kv_heads, head_dim;
  float scale;

  __device__ std::int64_t width() const { return kv_heads * head_dim; }
  // Where the first position of the keys, or values, of a query head lies.
  __device__ std::int64_t begin(std::int64_t row_head) const {
    return row_head / heads * capacity * width() + row_head % heads / (heads / kv_heads) * head_dim;
  }
};

// Grid: heads of all sequences (x), parts (y). The scores: `lanes` neighbouring threads take a key at a time,
// N elements each. Then the values: `columns` neighbouring threads take a position at a time, and what the
// others have summed for the same columns is added in order. Both are powers of two.
template <int N, typename T>
__global__ void part_kernel(Cache cache, int lanes, int columns, const T* q, const T* keys, const T* values,
                            float* maxima, float* sums, float* weighted) {
  __shared__ float scores[kPartKeys];
  __shared__ float partials[kDecodeThreads / kWarpSize];
  __shared__ __align__(16) float shares[kDecodeThreads][N];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t head = blockIdx.x;
  const std::int64_t part = head * gridDim.y + blockIdx.y;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kPartKeys;
  const int count = static_cast<int>(min(std::int64_t{kPartKeys}, cache.length - first));
  const std::int64_t begin = cache.begin(head) + first * cache.width();
  const int lane = thread % lanes;
  for (int group = thread / lanes; group < kPartKeys; group += kDecodeThreads / lanes) {
    float sum = 0.0F;
    for (std::int64_t c = lane * N; c < cache.head_dim && group < count; c += lanes * N) {
      float x[N];
      float y[N];
      load<N>(q + head * cache.head_dim + c, x);
      load<N>(keys + begin + group * cache.width() + c, y);
#pragma unroll
      for (int i = 0; i < N; ++i) sum += x[i] * y[i];
    }
    for (int mask = lanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) scores[group] = group < count ? cache.scale * sum : -INFINITY;
  }
  __syncthreads();
  // Every thread reads all scores, each of which lies in shared memory for all alike.
  float maximum = -INFINITY;
#pragma unroll 8
  for (int j = 0; j < kPartKeys; ++j) maximum = fmaxf(maximum, scores[j]);
  __syncthreads();
  float sum[1] = {};
  for (int j = thread; j < kPartKeys; j += kDecodeThreads) {
    scores[j] = expf(scores[j] - maximum);
    sum[0] += scores[j];
  }
  block_sums(sum, partials);
  if (thread == 0) {
    maxima[part] = maximum;
    sums[part] = sum[0];
  }
  const int together = kDecodeThreads / columns;
  for (std::int64_t from = 0; from < cache.head_dim; from += columns * N) {
    const std::int64_t c = from + thread % columns * N;
    float total[N] = {};
    if (c < cache.head_dim)
#pragma unroll 4
      for (int j = thread / columns; j < count; j += together) {
        float x[N];
        load<N>(values + begin + j * cache.width() + c, x);
#pragma unroll
        for (int i = 0; i < N; ++i) total[i] += scores[j] * x[i];
      }
    __syncthreads();  // the shares of the columns before have been read
    store<N>(total, shares[thread]);
    __syncthreads();
    if (thread >= columns || c >= cache.head_dim) continue;
    for (int t = 1; t < together; ++t)
#pragma unroll
      for (int i = 0; i < N; ++i) total[i] += shares[t * columns + thread][i];
    store<N>(total, weighted + part * cache.head_dim + c);
  }
}

// A block takes a head.
template <typename T>
__global__ void merge_kernel(std::int64_t parts, std::int64_t head_dim, const float* maxima,
                             const float* sums, const float* weighted, T* out) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * parts;
  float maximum = maxima[first];
  for (std::int64_t p = 1; p < parts; ++p) maximum = fmaxf(maximum, maxima[first + p]);
  float sum = 0.0F;
  for (std::int64_t p = 0; p < parts; ++p) sum += sums[first + p] * expf(maxima[first + p] - maximum);
  for (std::int64_t c = threadIdx.x; c < head_dim; c += blockDim.x) {
    float total = 0.0F;
    for (std::int64_t p = 0; p < parts; ++p)
      total += weighted[(first + p) * head_dim + c] * expf(maxima[first + p] - maximum);
    round_to(total / sum, out[blockIdx.x * head_dim + c]);
  }
}

// The smallest that is not below `count`, nor above `most`.
int power_of_two(std::int64_t count, int most) {
  int power = 1;
  while (power < count && power < most) power *= 2;
  return power;
}

}  // namespace

void attention_decode(const Context& ctx, const AttentionShape& shape, std::int64_t length, const Tensor& q,
                      const Tensor& keys, const Tensor& values, const Tensor& out) {
  check_device(ctx.device(), {q, keys, values, out});
  const ArenaScope scope(ctx.workspace);
  const Stream queue = stream(ctx.device());
  const std::int64_t heads = shape.batch * shape.heads;
  const std::int64_t parts = ceil_div(length, kPartKeys);
  const auto scratch = [&](std::int64_t count) {
    return ctx.workspace.tensor(DType::f32, {count}).data<float>();
  };
  float* maxima = scratch(heads * parts);
  float* sums = scratch(heads * parts);
  float* weighted = scratch(heads * parts * shape.head_dim);
  const Cache cache{.capacity = shape.seq,
                    .length = length,
                    .heads = shape.heads,
                    .kv_heads = shape.kv_heads,
                    .head_dim = shape.head_dim,
                    .scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim))};
  with_float(q.dtype(), [&]<typename T>(T) {
    with_pack(packable(shape.head_dim, {q.raw(), keys.raw(), values.raw()}), [&]<int N>() {
      const std::int64_t packs = ceil_div(shape.head_dim, N);
      launch(part_kernel<N, T>, Grid(static_cast<unsigned>(heads), static_cast<unsigned>(parts)),
             Block(kDecodeThreads), 0, queue, cache, power_of_two(packs, kWarpSize),
             power_of_two(packs, kDecodeThreads), q.data<T>(), keys.data<T>(), values.data<T>(), maxima, sums,
             weighted);
    });
    launch(merge_kernel<T>, grid_of(heads, 1), Block(kWarpSize * 4), 0, queue, parts, shape.head_dim, maxima,
           sums, weighted, out.data<T>());
  });
}

}  // namespace xmoe::gpu
