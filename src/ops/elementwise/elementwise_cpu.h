#pragma once

#include "device/tensor.h"

namespace xmoe::cpu {

void add(const Tensor& a, const Tensor& b, const Tensor& out);
void convert(const Tensor& from, const Tensor& to);
void fill_zero(const Tensor& tensor);
void copy(const Tensor& from, const Tensor& to);

}  // namespace xmoe::cpu
