// AdamW (Loshchilov and Hutter 2019), weight decay decoupled, bias correction as published:
//   g = grad_scale * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr * ( (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps) + decay * w )
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

struct AdamWOptions {
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double grad_scale = 1.0;  // gradient clipping and averaging
  std::int64_t step = 1;    // from 1
};

void adamw(const Context& ctx, const AdamWOptions& options,
           const Tensor& grad,    // [N] f32
           const Tensor& master,  // [N] f32
           const Tensor& m,       // [N] f32
           const Tensor& v,       // [N] f32
           const Tensor& value);  // [N] compute dtype: the rounded master; the same memory as master when f32

}  // namespace xmoe
