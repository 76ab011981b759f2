#pragma once

#include "ops/adamw/adamw.h"

namespace xmoe::cpu {

void adamw(const AdamWOptions& options, const Tensor& grad, const Tensor& value, const Tensor& remainder,
           const Tensor& m, const Tensor& v);

}  // namespace xmoe::cpu
