// Movement of rows between token order and routed order.
#pragma once

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

// out[i] = x[index[i]], zeros where the index is negative (a padding row); any dtype of 2 or 4 bytes.
void gather_rows(const Context& ctx,
                 const Tensor& x,      // [T, H]
                 const Tensor& index,  // [B] i32 in [-1, T)
                 const Tensor& out);   // [B, H]

// out[index[i]] = x[i], the way back of a gather; rows that no index names stay as they are. Entries differ,
// but for negative ones, which are left out. Any dtype of 2 or 4 bytes.
void scatter_rows(const Context& ctx,
                  const Tensor& x,      // [B, H]
                  const Tensor& index,  // [B] i32 in [-1, T)
                  const Tensor& out);   // [T, H]

// out[t] = sum over slots j in order of rows[index[t, j]]; negative entries (dropped assignments) contribute
// nothing. Sums in f32, rounded once. A gather and not a scatter: no atomics, and the same order every time.
void combine_rows(const Context& ctx,
                  const Tensor& rows,   // [B, H]
                  const Tensor& index,  // [T, k] i32 in [-1, B)
                  const Tensor& out);   // [T, H]

}  // namespace xmoe
