// The activations and their derivatives as device functions; the formulas are those of activation_rows.h.
#pragma once

#include "device/gpu.h"

namespace xmoe::gpu {

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + __expf(-x)); }

// gelu(x) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
struct Gelu {
  static constexpr float kTwiceSqrt2OverPi = 2.0F * 0.7978845608F;
  static constexpr float kCubic = 0.044715F;

  __device__ static float value(float x) { return x * sigmoid(kTwiceSqrt2OverPi * (x + kCubic * x * x * x)); }
  __device__ static void backward(float x, float& value, float& derivative) {
    const float s = sigmoid(kTwiceSqrt2OverPi * (x + kCubic * x * x * x));
    value = x * s;
    derivative = s + value * (1.0F - s) * kTwiceSqrt2OverPi * (1.0F + 3.0F * kCubic * x * x);
  }
};

// silu(gate) up
struct Swiglu {
  __device__ static float value(float gate, float up) { return gate * sigmoid(gate) * up; }
  __device__ static void backward(float gate, float up, float& value, float& d_gate, float& d_up) {
    const float s = sigmoid(gate);
    d_up = gate * s;
    value = d_up * up;
    d_gate = up * (s + d_up * (1.0F - s));
  }
};

}  // namespace xmoe::gpu
