// The case of the sum of two tensors.
#pragma once

#include "ops/elementwise/elementwise.h"
#include "support/op_case.h"

namespace xmoe {

inline OpCase add_case(const Shape& shape, ElementKind a = ElementKind::compute,
                       ElementKind b = ElementKind::compute, ElementKind out = ElementKind::compute) {
  OpCase op;
  op.name = "add";
  op.inputs = {{.name = "a", .shape = shape, .kind = a}, {.name = "b", .shape = shape, .kind = b}};
  op.outputs = {{.name = "out", .shape = shape, .kind = out}};
  op.reference = [](const Doubles& in, Doubles& sums) {
    for (std::size_t i = 0; i < sums[0].size(); ++i) sums[0][i] = in[0][i] + in[1][i];
  };
  op.forward = [](const Context& ctx, Tensors in, Tensors sums) { add(ctx, in[0], in[1], sums[0]); };
  return op;
}

inline OpCase convert_case(const Shape& shape, ElementKind from, ElementKind to) {
  OpCase op;
  op.name = "convert";
  op.inputs = {{.name = "from", .shape = shape, .kind = from}};
  op.outputs = {{.name = "to", .shape = shape, .kind = to}};
  op.reference = [](const Doubles& in, Doubles& out) { out[0] = in[0]; };
  op.forward = [](const Context& ctx, Tensors in, Tensors out) { convert(ctx, in[0], out[0]); };
  return op;
}

}  // namespace xmoe
