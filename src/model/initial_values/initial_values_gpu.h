#pragma once

#include "model/initial_values/initial_values.h"

namespace xmoe::gpu {

void fill_initial_values(const Context& ctx, const InitialValues& initial, const Rng& rng,
                         const ShardIndex& part, std::int64_t first, const Tensor& out);

}  // namespace xmoe::gpu
