#pragma once

#include "device/tensor.h"

namespace xmoe {

// A weight and the f32 sum of its gradients, of one shape. grad is undefined when nothing is trained.
struct Weight {
  Tensor value;
  Tensor grad;
};

}  // namespace xmoe
