#include "ops/runs/runs.h"

#include <numeric>

#include "device/gpu_built.h"
#include "ops/runs/runs_gpu.h"

namespace xmoe {

void fill_runs(const Context& ctx, std::span<const Run> runs, const Tensor& out) {
  std::int64_t count = 0;
  for (const Run& run : runs) count += run.count;
  check_shape(out, {count}, "out");
  check_dtype(out, DType::i32, "out");
  check_device(ctx.device(), {out});
  if (ctx.device().is_cpu()) {
    auto* to = out.data<std::int32_t>();
    for (const Run& run : runs) {
      std::iota(to, to + run.count, static_cast<std::int32_t>(run.begin));
      to += run.count;
    }
    return;
  }
  if constexpr (kGpuBuilt) return gpu::fill_runs(ctx, runs, out);
  fail_not_built("fill_runs", ctx.device());
}

}  // namespace xmoe
