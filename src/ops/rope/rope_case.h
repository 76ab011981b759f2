// Cases of the rotary embedding. Letters: T rows, D width of a head, S positions.
#pragma once

#include <cmath>

#include "ops/rope/rope.h"
#include "support/op_case.h"

namespace xmoe {

struct RopeShape {
  std::int64_t rows, heads, rotated, width, positions;
};

inline OpCase rope_case(const RopeShape& s) {
  constexpr double kBase = 10000.0;
  OpCase op;
  op.name = "rope";
  op.inputs = {{.name = "x", .shape = {s.rows, s.heads, s.width}}};
  op.outputs = {{.name = "y", .shape = {s.rows, s.heads, s.width}}};
  op.reference = [=](const Doubles& in, Doubles& out) {
    out[0] = in[0];
    const std::int64_t half = s.width / 2;
    for (std::int64_t t = 0; t < s.rows; ++t)
      for (std::int64_t h = 0; h < s.rotated; ++h)
        for (std::int64_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(t % s.positions) *
                               std::pow(kBase, -2.0 * static_cast<double>(i) / static_cast<double>(s.width));
          const auto a = static_cast<std::size_t>((t * s.heads + h) * s.width + i);
          const auto b = a + static_cast<std::size_t>(half);
          out[0][a] = in[0][a] * std::cos(angle) - in[0][b] * std::sin(angle);
          out[0][b] = in[0][b] * std::cos(angle) + in[0][a] * std::sin(angle);
        }
  };
  // The op works in place; the copy is the case's own.
  const auto rotate = [=](const Context& ctx, RopeDirection direction, const Tensor& from, const Tensor& to) {
    Arena arena(ctx.device(), MemoryTag::workspace);
    const Tensor table = arena.tensor(DType::f32, {s.positions, s.width});
    rope_table(kBase, table);
    device_copy(from.device(), from.raw(), to.device(), to.raw(), from.bytes());
    rope(ctx, direction, s.rotated, to, table);
  };
  op.forward = [=](const Context& ctx, Tensors in, Tensors out) {
    rotate(ctx, RopeDirection::forward, in[0], out[0]);
  };
  op.backward = [=](const Context& ctx, Tensors, Tensors, Tensors d_out, Tensors d_in) {
    rotate(ctx, RopeDirection::backward, d_out[0], d_in[0]);
  };
  return op;
}

}  // namespace xmoe
