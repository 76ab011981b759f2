#pragma once

#include <span>

#include "ops/runs/runs.h"

namespace xmoe::gpu {

void fill_runs(const Context& ctx, std::span<const Run> runs, const Tensor& out);

}  // namespace xmoe::gpu
