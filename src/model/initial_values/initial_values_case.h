// Cases of initial values: parts of matrices as layouts cut them.
#pragma once

#include "model/initial_values/initial_values.h"
#include "support/op_case.h"

namespace xmoe {

// What the elements of a part are in the global tensor, one by one.
inline std::vector<std::int64_t> elements_of(const Shape& global, const Sharding& sharding) {
  std::vector<std::int64_t> elements = {0};
  for (int axis = 0; axis < global.rank(); ++axis) {
    auto ranges = sharding.axes[static_cast<std::size_t>(axis)];
    if (ranges.empty()) ranges = {{0, global[axis]}};
    std::vector<std::int64_t> next;
    for (const std::int64_t element : elements)
      for (const AxisRange& range : ranges)
        for (std::int64_t i = 0; i < range.size; ++i)
          next.push_back(element * global[axis] + range.begin + i);
    elements = std::move(next);
  }
  return elements;
}

inline OpCase initial_values_case(const Shape& global, const Sharding& sharding,
                                  const InitialValues& initial = {.deviation = 0.02}) {
  const Rng rng(7, "layers.3.moe.experts.w1");
  OpCase op;
  op.name = "initial_values";
  op.outputs = {{.name = "out", .shape = {sharding.local_shape(global).numel()}}};
  op.reference = [=](const Doubles&, Doubles& out) {
    const auto elements = elements_of(global, sharding);
    for (std::size_t i = 0; i < elements.size(); ++i)
      out[0][i] = initial.deviation == 0.0
                      ? static_cast<double>(initial.constant)
                      : initial.deviation * rng.normal(static_cast<std::uint64_t>(elements[i]));
  };
  op.forward = [=](const Context& ctx, Tensors, Tensors out) {
    fill_initial_values(ctx, initial, rng, ShardIndex(global, sharding), 0, out[0]);
  };
  return op;
}

}  // namespace xmoe
