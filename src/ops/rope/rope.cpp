#include "ops/rope/rope.h"

#include <vector>

#include "device/gpu_built.h"
#include "ops/rope/rope_cpu.h"
#include "ops/rope/rope_gpu.h"

namespace xmoe {

void rope_table(double base, const Tensor& table) {
  XMOE_CHECK(table.rank() == 2 && table.dim(1) % 2 == 0, "table: expected [S, D] with D even, got {}",
             to_string(table.shape()));
  XMOE_CHECK(base > 0.0, "the base of the rotary embedding must be positive, got {}", base);
  check_dtype(table, DType::f32, "table");
  if (table.device().is_cpu()) return cpu::rope_table(base, table);
  // Once per model: the host's doubles serve every device.
  std::vector<float> angles(static_cast<std::size_t>(table.numel()));
  cpu::rope_table(base, Tensor(angles.data(), DType::f32, table.shape()));
  device_copy({}, angles.data(), table.device(), table.raw(), table.bytes());
}

void rope(const Context& ctx, RopeDirection direction, std::int64_t rotated_heads, const Tensor& x,
          const Tensor& table) {
  XMOE_CHECK(x.rank() == 3 && table.rank() == 2 && x.dim(2) == table.dim(1) && x.dim(2) % 2 == 0,
             "expected x [T, heads, D] and table [S, D] with D even, got {} and {}", to_string(x.shape()),
             to_string(table.shape()));
  XMOE_CHECK(0 <= rotated_heads && rotated_heads <= x.dim(1), "{} heads to rotate of {}", rotated_heads,
             x.dim(1));
  XMOE_CHECK(table.dim(0) > 0 || x.dim(0) == 0, "the table has no positions");
  check_dtype(table, DType::f32, "table");
  if (ctx.device().is_cpu()) return cpu::rope(direction, rotated_heads, x, table);
  if constexpr (kGpuBuilt) return gpu::rope(ctx, direction, rotated_heads, x, table);
  fail_not_built("rope", ctx.device());
}

}  // namespace xmoe
