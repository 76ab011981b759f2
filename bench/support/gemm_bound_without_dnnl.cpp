// In the place of gemm_bound.cpp in a build for GPUs on a machine without oneDNN.
#include "bench/support/gemm_bound.h"

namespace xmoe {

double gemm_bound(std::int64_t, std::int64_t, std::int64_t, DType, DType, const GemmOptions&) {
  fail("this binary was built without oneDNN, which gives the bound of matrix products on the CPU");
}

}  // namespace xmoe
