// Table lookup and its gradient. A negative id is one whose row lies elsewhere, in the part of the table that
// another rank holds: zeros in forward, skipped in backward. An id beyond the table is an error that names
// its position.
#pragma once

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

void embedding_forward(const Context& ctx,
                       const Tensor& ids,    // [T] i32
                       const Tensor& table,  // [V, H]
                       const Tensor& out);   // [T, H]

// Sums in order of t for every id.
void embedding_backward(const Context& ctx,
                        const Tensor& ids,      // [T] i32
                        const Tensor& dout,     // [T, H]
                        const Tensor& dtable);  // [V, H] f32; added to

}  // namespace xmoe
