// The router's product, which is of f32 accuracy whatever the dtype of the rows: choices among experts hang
// on small differences of logits.
//
//   logits = x W^T                dW += dlogits^T x,  dx += dlogits W
//
// Sums are in f32. Where x has 16 bits, dx has too: f32 sums are added to it and rounded once, but for those
// of bf16 on a GPU, which may be rounded before they are added.
#pragma once

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

void router_logits(const Context& ctx,
                   const Tensor& x,        // [T, H] f32, bf16 or f16
                   const Tensor& w,        // [E, H] f32
                   const Tensor& logits);  // [T, E] f32

void router_backward(const Context& ctx,
                     const Tensor& dlogits,  // [T, E] f32
                     const Tensor& x,        // [T, H]
                     const Tensor& w,        // [E, H] f32
                     const Tensor& dw,       // [E, H] f32; added to
                     const Tensor& dx);      // [T, H]; added to

}  // namespace xmoe
