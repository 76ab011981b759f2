#include <algorithm>
#include <numeric>

#include "device/sort_gpu.h"

namespace xmoe::gpu {

// Device memory is the host's, and nothing queued is left to do.
void sort_with_places(const Context& ctx, const Tensor& keys, const Tensor& sorted, const Tensor& places) {
  check_device(ctx.device(), {keys, sorted, places});
  const auto* key = keys.data<std::int32_t>();
  auto* place = places.data<std::int32_t>();
  const std::int64_t count = keys.numel();
  std::iota(place, place + count, 0);
  std::stable_sort(place, place + count, [&](std::int32_t a, std::int32_t b) { return key[a] < key[b]; });
  for (std::int64_t i = 0; i < count; ++i) sorted.data<std::int32_t>()[i] = key[place[i]];
}

}  // namespace xmoe::gpu
