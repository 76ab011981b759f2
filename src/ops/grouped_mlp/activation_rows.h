// The activation and its derivative on one row, in registers between loads and stores; loops are written to
// vectorise.
#pragma once

#include <cstdint>

#include "ops/cpu_math.h"
#include "ops/cpu_rows.h"
#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe::cpu {

// gelu(x) = x / 2 (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016); (1 +
// tanh(u)) / 2 = sigmoid(2 u).
struct Gelu {
  static constexpr float kSqrt2OverPi = 0.7978845608F;
  static constexpr float kCubic = 0.044715F;

  static float value(float x) { return x * sigmoid(2.0F * kSqrt2OverPi * (x + kCubic * x * x * x)); }
  static float derivative(float x) {
    const float s = sigmoid(2.0F * kSqrt2OverPi * (x + kCubic * x * x * x));
    return s + x * s * (1.0F - s) * 2.0F * kSqrt2OverPi * (1.0F + 3.0F * kCubic * x * x);
  }
};

// a = weight * act(h)
template <typename T>
void activate_row(Activation activation, std::int64_t ffn, const T* h, float weight, T* a) {
  if (activation == Activation::swiglu) {
    const T* up = h + ffn;
#pragma omp simd
    for (std::int64_t i = 0; i < ffn; ++i) {
      const auto g = static_cast<float>(h[i]);
      round_to(weight * g * sigmoid(g) * static_cast<float>(up[i]), a[i]);
    }
  } else {
    for (std::int64_t i = 0; i < ffn; ++i) round_to(weight * Gelu::value(static_cast<float>(h[i])), a[i]);
  }
}

// Given da = dy W2: a = weight * act(h) (for dW2), dh = weight * da * act'(h); returns <da, act(h)>, the
// gradient of the weight.
template <typename T>
float activate_row_backward(Activation activation, std::int64_t ffn, const T* h, const float* da,
                            float weight, T* a, T* dh) {
  float dweight = 0.0F;
  if (activation == Activation::swiglu) {
    const T* up = h + ffn;
    T* dup = dh + ffn;
#pragma omp simd reduction(+ : dweight)
    for (std::int64_t i = 0; i < ffn; ++i) {
      const auto g = static_cast<float>(h[i]);
      const auto u = static_cast<float>(up[i]);
      const float s = sigmoid(g);
      const float silu = g * s;
      const float d = weight * da[i];
      dweight += da[i] * silu * u;
      round_to(weight * silu * u, a[i]);
      round_to(d * u * (s + silu * (1.0F - s)), dh[i]);
      round_to(d * silu, dup[i]);
    }
  } else {
#pragma omp simd reduction(+ : dweight)
    for (std::int64_t i = 0; i < ffn; ++i) {
      const auto x = static_cast<float>(h[i]);
      const float value = Gelu::value(x);
      dweight += da[i] * value;
      round_to(weight * value, a[i]);
      round_to(weight * da[i] * Gelu::derivative(x), dh[i]);
    }
  }
  return dweight;
}

}  // namespace xmoe::cpu
