#pragma once

#include "device/context.h"

namespace xmoe::gpu {

void embedding_forward(const Context& ctx, const Tensor& ids, const Tensor& table, const Tensor& out);
void embedding_backward(const Context& ctx, const Tensor& ids, const Tensor& dout, const Tensor& dtable);

}  // namespace xmoe::gpu
