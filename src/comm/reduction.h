// The arithmetic of a reduction, apart from how its operands get here; and how backends that sum for
// themselves cut one up.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "comm/communicator.h"

namespace xmoe {

// out[i] = op over ranks r, in order, of parts[r * n + i]. f32, bf16 and f16 (in f32, rounded once) or i64. A
// NaN survives max and min, so that a value that is not finite anywhere is seen everywhere. `out` may be any
// one of the parts.
void reduce_parts(ReduceOp op, DType dtype, const void* parts, int ranks, std::int64_t n, void* out);

// Bytes of a reduction in flight at once: a message to each of some tens of ranks is then still long enough
// to be bound by bandwidth, and scratch memory is negligible beside a model.
inline constexpr std::int64_t kReductionChunkBytes = std::int64_t{4} << 20;

// Whether an all_reduce of so many bytes is one gather and a sum on every rank, one latency instead of two:
// while little is gathered.
inline bool reduces_by_gather(std::int64_t bytes, int ranks) {
  return bytes * ranks <= std::int64_t{64} << 10;
}

// [part_begin(r), part_begin(r + 1)) of n elements are those that rank r sums.
inline std::int64_t part_begin(std::int64_t n, int ranks, int r) { return n * r / ranks; }

}  // namespace xmoe
