#include "model/initial_values/initial_values.h"

#include "device/gpu_built.h"
#include "model/initial_values/initial_values_cpu.h"
#include "model/initial_values/initial_values_gpu.h"

namespace xmoe {

void fill_initial_values(const Context& ctx, const InitialValues& initial, const Rng& rng,
                         const ShardIndex& part, std::int64_t first, const Tensor& out) {
  XMOE_CHECK(out.rank() == 1, "expected out [n], got {}", to_string(out.shape()));
  XMOE_CHECK(first >= 0 && first + out.numel() <= part.numel(), "{} elements from {} of a part of {}",
             out.numel(), first, part.numel());
  check_device(ctx.device(), {out});
  if (ctx.device().is_cpu()) return cpu::fill_initial_values(initial, rng, part, first, out);
  if constexpr (kGpuBuilt) return gpu::fill_initial_values(ctx, initial, rng, part, first, out);
  fail_not_built("fill_initial_values", ctx.device());
}

}  // namespace xmoe
