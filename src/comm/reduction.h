// The arithmetic of a reduction, apart from how its operands got here.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "comm/communicator.h"

namespace xmoe {

// out[i] = op over ranks r, in order, of parts[r * n + i]. f32, bf16 (in f32, rounded once) or i64. A NaN
// survives max and min, so that a value that is not finite anywhere is seen everywhere. `out` may be any one
// of the parts.
void reduce_parts(ReduceOp op, DType dtype, const void* parts, int ranks, std::int64_t n, void* out);

}  // namespace xmoe
