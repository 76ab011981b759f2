// Bound by arithmetic: an element takes ten rounds of integer products, and a logarithm, a root and a cosine
// in double. So a thread takes one element, and no wide accesses are needed. No shared memory.
#include "model/initial_values/initial_values_gpu.h"

#include <numbers>

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

template <typename T>
__global__ void fill_kernel(InitialValues initial, Rng rng, ShardIndex part, std::int64_t first, T* out,
                            std::int64_t count) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  float value = initial.constant;
  if (initial.deviation != 0.0) {
    // Rng::normal(), by the device's functions. Only products: nothing that a compiler could contract.
    const auto [u, v] = rng.uniform_pair(static_cast<std::uint64_t>(part.run_at(first + i).index));
    const double normal = sqrt(-2.0 * log(u)) * cos(2.0 * std::numbers::pi * v);
    value = static_cast<float>(initial.deviation * normal);
  }
  round_to(value, out[i]);
}

}  // namespace

void fill_initial_values(const Context& ctx, const InitialValues& initial, const Rng& rng,
                         const ShardIndex& part, std::int64_t first, const Tensor& out) {
  with_float(out.dtype(), [&]<typename T>(T) {
    launch(fill_kernel<T>, grid_of(out.numel(), kBlockThreads), Block(kBlockThreads), 0, stream(ctx.device()),
           initial, rng, part, first, out.data<T>(), out.numel());
  });
}

}  // namespace xmoe::gpu
