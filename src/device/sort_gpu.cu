#include "device/sort_gpu.h"

#include "device/gpu.h"

#if defined(__HIP_PLATFORM_AMD__)
#include <hipcub/hipcub.hpp>
namespace vendor = hipcub;
#else
#include <cub/device/device_radix_sort.cuh>
namespace vendor = cub;
#endif

namespace xmoe::gpu {

namespace {

__global__ void count_up(std::int32_t* places, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) places[i] = static_cast<std::int32_t>(i);
}

}  // namespace

void sort_with_places(const Context& ctx, const Tensor& keys, const Tensor& sorted, const Tensor& places) {
  constexpr int kThreads = 256;
  const std::int64_t count = keys.numel();
  if (count == 0) return;
  check_device(ctx.device(), {keys, sorted, places});
  const Stream queue = stream(ctx.device());
  const ArenaScope scope(ctx.workspace);
  const Tensor unsorted = ctx.workspace.tensor(DType::i32, {count});
  launch(count_up, Grid(static_cast<unsigned>((count + kThreads - 1) / kThreads)), Block(kThreads), 0, queue,
         unsorted.data<std::int32_t>(), count);
  const auto sort = [&](void* scratch, std::size_t& bytes) {
    check(vendor::DeviceRadixSort::SortPairs(scratch, bytes, keys.data<std::int32_t>(),
                                             sorted.data<std::int32_t>(), unsorted.data<std::int32_t>(),
                                             places.data<std::int32_t>(), static_cast<int>(count), 0, 32,
                                             queue),
          "sorting");
  };
  std::size_t bytes = 0;
  sort(nullptr, bytes);
  sort(ctx.workspace.allocate(bytes), bytes);
}

}  // namespace xmoe::gpu
