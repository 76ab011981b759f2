#pragma once

#include "model/initial_values/initial_values.h"

namespace xmoe::cpu {

void fill_initial_values(const InitialValues& initial, const Rng& rng, const ShardIndex& part,
                         std::int64_t first, const Tensor& out);

}  // namespace xmoe::cpu
