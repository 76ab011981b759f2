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

// Grid: heads of all sequences (x), parts (y). A warp scores one key at a time; then a thread sums the values
// of a column, weighted. Shared memory: the scores of the part and the results of the warps.
template <typename T>
__global__ void part_kernel(Cache cache, const T* q, const T* keys, const T* values, float* maxima,
                            float* sums, float* weighted) {
  __shared__ float scores[kPartKeys];
  __shared__ float partials[kDecodeThreads / kWarpSize];
  const std::int64_t head = blockIdx.x;
  const std::int64_t part = head * gridDim.y + blockIdx.y;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kPartKeys;
  const int count = static_cast<int>(min(std::int64_t{kPartKeys}, cache.length - first));
  const std::int64_t begin = cache.begin(head) + first * cache.width();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int j = static_cast<int>(threadIdx.x) / kWarpSize; j < count; j += kDecodeThreads / kWarpSize) {
    float sum = 0.0F;
    for (std::int64_t c = lane; c < cache.head_dim; c += kWarpSize)
      sum += to_float(q[head * cache.head_dim + c]) * to_float(keys[begin + j * cache.width() + c]);
#pragma unroll
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) scores[j] = cache.scale * sum;
  }
  __syncthreads();
  // All threads go over all scores: a few hundred reads of what lies in shared memory for all alike.
  float maximum = scores[0];
  for (int j = 1; j < count; ++j) maximum = fmaxf(maximum, scores[j]);
  __syncthreads();
  float sum[1] = {};
  for (int j = static_cast<int>(threadIdx.x); j < count; j += kDecodeThreads) {
    scores[j] = expf(scores[j] - maximum);
    sum[0] += scores[j];
  }
  block_sums(sum, partials);
  if (threadIdx.x == 0) {
    maxima[part] = maximum;
    sums[part] = sum[0];
  }
  for (std::int64_t c = threadIdx.x; c < cache.head_dim; c += kDecodeThreads) {
    float total = 0.0F;
#pragma unroll 8
    for (int j = 0; j < count; ++j) total += scores[j] * to_float(values[begin + j * cache.width() + c]);
    weighted[part * cache.head_dim + c] = total;
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
    launch(part_kernel<T>, Grid(static_cast<unsigned>(heads), static_cast<unsigned>(parts)),
           Block(kDecodeThreads), 0, queue, cache, q.data<T>(), keys.data<T>(), values.data<T>(), maxima,
           sums, weighted);
    launch(merge_kernel<T>, grid_of(heads, 1), Block(kWarpSize * 4), 0, queue, parts, shape.head_dim, maxima,
           sums, weighted, out.data<T>());
  });
}

}  // namespace xmoe::gpu
