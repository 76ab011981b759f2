// Sums, copies and conversions of whole tensors (f32 and one of bf16 and f16 in any mix; sums in f32). bf16
// and f16 do not occur together.
#pragma once

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

void add(const Context& ctx, const Tensor& a, const Tensor& b,
         const Tensor& out);  // out = a + b; out may be a or b; same shapes
void convert(const Context& ctx, const Tensor& from, const Tensor& to);  // same shapes
void fill_zero(const Context& ctx, const Tensor& tensor);                // any dtype
void copy(const Context& ctx, const Tensor& from, const Tensor& to);     // same dtype and shape

}  // namespace xmoe
