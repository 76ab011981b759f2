// Bound by bytes. Every block sums the same share of the elements, in double; the host adds up the blocks in
// order.
#include "ops/reduce/reduce_gpu.h"

#include <algorithm>
#include <vector>

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

// Fixed, so that results do not depend on the GPU: eight blocks for each of up to 128 multiprocessors.
constexpr std::int64_t kMostBlocks = 1024;
// Elements below which another block is not worth it: 16 accesses a thread.
constexpr std::int64_t kLeastShare = std::int64_t{16} * 4 * kBlockThreads;

// A block takes `share` elements. Shared memory: the partial sums of the warps.
template <bool squared, int N>
__global__ void reduce_kernel(const float* x, std::int64_t count, std::int64_t share, double* sums) {
  __shared__ double partials[kBlockThreads / kWarpSize];
  const std::int64_t begin = blockIdx.x * share;
  const std::int64_t end = begin + share < count ? begin + share : count;
  double total[1] = {};
  const auto add = [&](float value) {
    const auto v = static_cast<double>(value);
    total[0] += squared ? v * v : v;
  };
  const std::int64_t packed_end = begin + (end - begin) / N * N;
#pragma unroll 4
  for (std::int64_t i = begin + static_cast<std::int64_t>(threadIdx.x) * N; i < packed_end;
       i += static_cast<std::int64_t>(blockDim.x) * N) {
    float values[N];
    load<N>(x + i, values);
#pragma unroll
    for (int j = 0; j < N; ++j) add(values[j]);
  }
  if (packed_end + threadIdx.x < end) add(x[packed_end + threadIdx.x]);
  block_sums(total, partials);
  if (threadIdx.x == 0) sums[blockIdx.x] = total[0];
}

template <bool squared>
double reduce(const Context& ctx, const Tensor& x) {
  check_device(ctx.device(), {x});
  const std::int64_t count = x.numel();
  if (count == 0) return 0.0;
  constexpr int kElements = 4;
  const std::int64_t blocks = std::clamp<std::int64_t>(count / kLeastShare, 1, kMostBlocks);
  const std::int64_t share = ceil_div(ceil_div(count, blocks), kElements) * kElements;
  const std::int64_t used = ceil_div(count, share);
  const ArenaScope scope(ctx.workspace);
  std::vector<double> sums(static_cast<std::size_t>(used));
  const std::size_t bytes = sums.size() * sizeof(double);
  auto* on_device = static_cast<double*>(ctx.workspace.allocate(bytes));
  const auto run = [&]<int N>() {
    launch(reduce_kernel<squared, N>, grid_of(used, 1), Block(kBlockThreads), 0, stream(ctx.device()),
           x.data<float>(), count, share, on_device);
  };
  if (aligned({x.raw()}))
    run.template operator()<kElements>();
  else
    run.template operator()<1>();
  device_copy(ctx.device(), on_device, {}, sums.data(), bytes);
  double total = 0.0;
  for (const double s : sums) total += s;
  return total;
}

}  // namespace

double sum(const Context& ctx, const Tensor& x) { return reduce<false>(ctx, x); }
double sum_of_squares(const Context& ctx, const Tensor& x) { return reduce<true>(ctx, x); }

}  // namespace xmoe::gpu
