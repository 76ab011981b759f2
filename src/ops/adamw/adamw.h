// AdamW (Loshchilov and Hutter 2019), weight decay decoupled, bias correction as published:
//   g = grad_scale * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr * ( (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps) + decay * w )
//
// w is f32 whatever the dtype of the value: where that is bf16 or f16, value and remainder together are w
// (base/split_float.h; exactly but for the smallest and largest of f16), and the value is w rounded to
// nearest.
//
// Moments in bf16 are widened, updated and used in f32, and rounded by chance when they are written, each to
// one of its two neighbours with the number itself as the mean. Rounded to nearest they would stand still:
// with b2 = 0.999 a step moves the second moment by a thousandth or so, and half a unit of bf16 is two to
// four. The random bits are a function of (rounding_key, first_element + index) alone.
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
  double grad_scale = 1.0;         // gradient clipping and averaging
  std::int64_t step = 1;           // from 1
  std::uint64_t rounding_key = 0;  // another one for each step
  std::uint64_t first_element = 0;
};

void adamw(const Context& ctx, const AdamWOptions& options,
           const Tensor& grad,       // [N] f32, or bf16 beside a bf16 value
           const Tensor& value,      // [N] f32, bf16 or f16
           const Tensor& remainder,  // [N] i16; undefined beside an f32 value
           const Tensor& m,          // [N] f32 or bf16
           const Tensor& v);         // [N] f32 or bf16

}  // namespace xmoe
