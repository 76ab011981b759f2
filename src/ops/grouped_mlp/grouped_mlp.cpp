#include "ops/grouped_mlp/grouped_mlp.h"

#include <numeric>

#include "device/gpu_built.h"
#include "ops/elementwise/elementwise.h"
#include "ops/grouped_mlp/grouped_mlp_cpu.h"
#include "ops/grouped_mlp/grouped_mlp_gpu.h"

namespace xmoe {

std::int64_t ExpertRows::total() const {
  return std::accumulate(per_expert.begin(), per_expert.end(), std::int64_t{0});
}

namespace {

void check_pair(const RowPair& pair, std::int64_t width, DType dtype, const char* name) {
  check_shape(pair.local, {pair.local.dim(0), width}, name);
  check_dtype(pair.local, dtype, name);
  if (!pair.remote.defined()) return;
  check_shape(pair.remote, {pair.remote.dim(0), width}, name);
  check_dtype(pair.remote, dtype, name);
}

void check_arguments(Activation activation, const ExpertRows& rows, const Tensor& w1, const Tensor& w2,
                     const Tensor& h) {
  const auto experts = static_cast<std::int64_t>(rows.per_expert.size());
  const std::int64_t r = rows.total();
  const std::int64_t hidden = w2.dim(1);
  const std::int64_t ffn = w2.dim(2);
  const std::int64_t width = preactivation_width(activation, ffn);
  check_shape(w1, {experts, width, hidden}, "w1");
  check_shape(w2, {experts, hidden, ffn}, "w2");
  check_shape(h, {r, width}, "h");
  check_dtype(w2, w1.dtype(), "w2");
  check_dtype(h, w1.dtype(), "h");
  if (rows.source.defined()) check_shape(rows.source, {r}, "source");
  if (rows.destination.defined()) check_shape(rows.destination, {r}, "destination");
  if (rows.weights.defined()) check_shape(rows.weights, {r}, "weights");
}

// Gradients of experts without rows, which no product writes; those of neighbours in one fill.
void clear_without_rows(const Context& ctx, std::span<const std::int64_t> per_expert, const Tensor& dw) {
  const auto experts = static_cast<std::int64_t>(per_expert.size());
  std::int64_t first = 0;  // of those that are not cleared yet
  for (std::int64_t e = 0; e <= experts; ++e) {
    if (e < experts && per_expert[static_cast<std::size_t>(e)] == 0) continue;
    if (first < e) fill_zero(ctx, dw.slice(first, e));
    first = e + 1;
  }
}

}  // namespace

void grouped_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
                         const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y) {
  check_arguments(activation, rows, w1, w2, h);
  check_pair(x, w1.dim(2), w1.dtype(), "x");
  if (y.local.defined()) check_pair(y, w1.dim(2), w1.dtype(), "y");
  if (ctx.device().is_cpu()) return cpu::grouped_mlp_forward(ctx, activation, rows, x, w1, w2, h, y);
  if constexpr (kGpuBuilt) return gpu::grouped_mlp_forward(ctx, activation, rows, x, w1, w2, h, y);
  fail_not_built("grouped_mlp", ctx.device());
}

void grouped_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows,
                          const RowPair& dy, const RowPair& x, const Tensor& w1, const Tensor& w2,
                          const Tensor& h, const RowPair& dx, const Tensor& dweights, const Tensor& dw1,
                          const Tensor& dw2, Accumulation accumulation) {
  check_arguments(activation, rows, w1, w2, h);
  check_pair(dy, w1.dim(2), w1.dtype(), "dy");
  check_pair(x, w1.dim(2), w1.dtype(), "x");
  check_pair(dx, w1.dim(2), w1.dtype(), "dx");
  check_shape(dw1, w1.shape(), "dw1");
  check_shape(dw2, w2.shape(), "dw2");
  if (dw1.dtype() != w1.dtype()) check_dtype(dw1, DType::f32, "dw1");
  check_dtype(dw2, dw1.dtype(), "dw2");
  XMOE_CHECK(dweights.defined() == rows.weights.defined(), "weights and their gradient come together");
  if (dweights.defined()) check_shape(dweights, {rows.total()}, "dweights");
  if (accumulation == Accumulation::write)
    for (const Tensor& dw : {dw1, dw2}) clear_without_rows(ctx, rows.per_expert, dw);
  if (ctx.device().is_cpu())
    return cpu::grouped_mlp_backward(ctx, activation, rows, dy, x, w1, w2, h, dx, dweights, dw1, dw2,
                                     accumulation);
  if constexpr (kGpuBuilt)
    return gpu::grouped_mlp_backward(ctx, activation, rows, dy, x, w1, w2, h, dx, dweights, dw1, dw2,
                                     accumulation);
  fail_not_built("grouped_mlp", ctx.device());
}

}  // namespace xmoe
