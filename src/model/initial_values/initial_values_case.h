// Cases of initial values: parts of matrices as layouts cut them.
#pragma once

#include "model/initial_values/initial_values.h"
#include "support/op_case.h"
#include "support/shard_elements.h"

namespace xmoe {

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
