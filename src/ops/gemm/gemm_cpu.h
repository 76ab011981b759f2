#pragma once

#include "ops/gemm/gemm.h"

namespace xmoe::cpu {

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options);

}  // namespace xmoe::cpu
