// What gemm_tile reaches on tiles of the sizes and strides of attention's products, on all threads: the bound
// of attention. The masked half counts in neither.
#pragma once

#include "ops/attention/attention.h"

namespace xmoe {

double attention_forward_bound(const AttentionShape& shape, DType dtype);   // GFLOP/s
double attention_backward_bound(const AttentionShape& shape, DType dtype);  // GFLOP/s

}  // namespace xmoe
