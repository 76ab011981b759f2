#pragma once

#include "ops/adamw/adamw.h"

namespace xmoe::cpu {

void adamw(const AdamWOptions& options, const Tensor& grad, const Tensor& master, const Tensor& m,
           const Tensor& v, const Tensor& value);

}  // namespace xmoe::cpu
