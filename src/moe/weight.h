#pragma once

#include "device/tensor.h"

namespace xmoe {

// A weight and the sum of its gradients (f32; of the experts also in the dtype of the value), of one shape.
// grad is undefined when nothing is trained.
struct Weight {
  Tensor value;
  Tensor grad;
};

}  // namespace xmoe
