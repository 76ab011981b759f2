#include "ops/rope/rope.h"

#include "ops/rope/rope_cpu.h"

namespace xmoe {

void rope_table(double base, const Tensor& table) {
  XMOE_CHECK(table.rank() == 2 && table.dim(1) % 2 == 0, "table: expected [S, D] with D even, got {}",
             to_string(table.shape()));
  XMOE_CHECK(base > 0.0, "the base of the rotary embedding must be positive, got {}", base);
  check_dtype(table, DType::f32, "table");
  if (!table.device().is_cpu()) fail_not_built("rope_table", table.device());
  cpu::rope_table(base, table);
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
  if (!ctx.device().is_cpu()) fail_not_built("rope", ctx.device());
  cpu::rope(direction, rotated_heads, x, table);
}

}  // namespace xmoe
