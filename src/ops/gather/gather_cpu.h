#pragma once

#include "device/tensor.h"

namespace xmoe::cpu {

void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out);
void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out);
void combine_rows(const Tensor& rows, const Tensor& index, const Tensor& out);

}  // namespace xmoe::cpu
