// What a parameter holds before it is trained. An element's value depends on the random numbers and its index
// in the global tensor alone: not on the part that a rank holds, nor on ranks, threads or the order.
//
// Random numbers are computed in double on every device, rounded to f32 and then to the parameter's dtype. On
// a GPU the logarithm and the cosine may differ from the host's in the last places of a double: by their
// error bounds some f32 element in 10^8 is then the neighbour of the host's, and far fewer 16-bit ones are.
#pragma once

#include <cstdint>

#include "base/rng.h"
#include "device/context.h"
#include "device/tensor.h"
#include "model/sharding.h"

namespace xmoe {

struct InitialValues {
  double deviation = 0.0;  // of normal numbers around 0; 0: all are the constant
  float constant = 0.0F;
};

// Elements [first, first + n) of a part: deviation * rng.normal(index in the global tensor), or the constant.
void fill_initial_values(const Context& ctx, const InitialValues& initial, const Rng& rng,
                         const ShardIndex& part, std::int64_t first,
                         const Tensor& out);  // [n] f32, bf16 or f16

}  // namespace xmoe
