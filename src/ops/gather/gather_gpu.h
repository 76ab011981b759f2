#pragma once

#include "device/context.h"

namespace xmoe::gpu {

struct FaultKind;

void gather_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out);
// `beyond_rows`: what an index beyond the rows is called.
void gather_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out,
                 const FaultKind& beyond_rows);
void scatter_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out);
void combine_rows(const Context& ctx, const Tensor& rows, const Tensor& index, const Tensor& out);

}  // namespace xmoe::gpu
