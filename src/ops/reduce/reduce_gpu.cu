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
constexpr int kElements = 4;  // of one access: 16 bytes, or 8 of bf16

// A block takes `share` elements. Shared memory: the partial sums of the warps.
template <bool squared, int N, typename T>
__global__ void reduce_kernel(const T* x, std::int64_t count, std::int64_t share, double* sums) {
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
  if (packed_end + threadIdx.x < end) add(to_float(x[packed_end + threadIdx.x]));
  block_sums(total, partials);
  if (threadIdx.x == 0) sums[blockIdx.x] = total[0];
}

// How a tensor is cut into shares, one a block.
struct Cut {
  std::int64_t share, blocks;

  explicit Cut(std::int64_t count) {
    const std::int64_t most = std::clamp<std::int64_t>(count / kLeastShare, 1, kMostBlocks);
    share = ceil_div(ceil_div(count, most), kElements) * kElements;
    blocks = count == 0 ? 0 : ceil_div(count, share);
  }
};

template <bool squared>
double reduce(const Context& ctx, std::span<const Tensor> tensors) {
  std::int64_t all = 0;
  for (const Tensor& x : tensors) {
    check_device(ctx.device(), {x});
    all += Cut(x.numel()).blocks;
  }
  if (all == 0) return 0.0;
  const ArenaScope scope(ctx.workspace);
  std::vector<double> sums(static_cast<std::size_t>(all));
  const std::size_t bytes = sums.size() * sizeof(double);
  auto* const on_device = static_cast<double*>(ctx.workspace.allocate(bytes));
  double* to = on_device;
  for (const Tensor& x : tensors) {
    const Cut cut(x.numel());
    with_float_or<bf16>(x.dtype(), [&]<typename T>(T) {
      const auto run = [&]<int N>() {
        launch(reduce_kernel<squared, N, T>, grid_of(cut.blocks, 1), Block(kBlockThreads), 0,
               stream(ctx.device()), x.data<T>(), x.numel(), cut.share, to);
      };
      if (aligned({x.raw()}))
        run.template operator()<kElements>();
      else
        run.template operator()<1>();
    });
    to += cut.blocks;
  }
  device_copy(ctx.device(), on_device, {}, sums.data(), bytes);
  double total = 0.0;
  for (const double s : sums) total += s;
  return total;
}

}  // namespace

double sum(const Context& ctx, const Tensor& x) { return reduce<false>(ctx, std::span(&x, 1)); }
double sum_of_squares(const Context& ctx, std::span<const Tensor> tensors) {
  return reduce<true>(ctx, tensors);
}

}  // namespace xmoe::gpu
