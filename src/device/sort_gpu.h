// Sorting on a GPU, by the vendor's library.
#pragma once

#include "device/context.h"

namespace xmoe::gpu {

// Sorts the keys in increasing order and gives the places they came from; equal keys keep their order.
void sort_with_places(const Context& ctx,
                      const Tensor& keys,     // [N] i32
                      const Tensor& sorted,   // [N] i32
                      const Tensor& places);  // [N] i32

}  // namespace xmoe::gpu
