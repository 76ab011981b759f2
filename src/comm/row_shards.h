// Rows that are cut over a tensor-parallel group: between blocks rank r of G holds rows [r T / G, (r + 1) T /
// G) of the T rows of a micro-batch (sequence parallelism, Korthikanti et al. 2022). A block whose matrices
// are cut over the group gathers the rows before its first product and scatters the partial sums behind its
// last; each is the other's transpose. With one rank nothing is copied.
#pragma once

#include "comm/communicator.h"
#include "device/context.h"

namespace xmoe {

// All rows, [G n, ...]: memory of the workspace, or `own` itself.
Tensor gather_row_shards(const Context& ctx, Communicator& group, const Tensor& own);  // [n, ...]

// Where this rank's part of the sums for all rows is formed, [G n, ...]: memory of the workspace, or `own`
// itself.
Tensor partial_rows(const Context& ctx, Communicator& group, const Tensor& own);  // [n, ...]

// own = this rank's rows of the sum of all ranks' `partial`, which partial_rows() gave.
void scatter_row_sums(Communicator& group, const Tensor& partial,  // [G n, ...]
                      const Tensor& own);                          // [n, ...]

}  // namespace xmoe
