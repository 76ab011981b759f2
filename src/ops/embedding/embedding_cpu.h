#pragma once

#include "device/tensor.h"

namespace xmoe::cpu {

void embedding_forward(const Tensor& ids, const Tensor& table, const Tensor& out);
void embedding_backward(const Tensor& ids, const Tensor& dout, const Tensor& dtable);

}  // namespace xmoe::cpu
