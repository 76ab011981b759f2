// Products of f32 accuracy, beside what the library makes of the same product in the rows' own dtype, sums in
// f32: the bound.
#include "bench/support/bench.h"
#include "bench/support/random_blocks.h"
#include "ops/gemm/gemm.h"
#include "ops/router/router_case.h"

namespace xmoe {

namespace {

void measure(Bench& bench, std::int64_t tokens, std::int64_t width, std::int64_t experts, DType dtype) {
  const OpCase op = router_case(tokens, width, experts);
  Arena arena(bench.device(), MemoryTag::saved);
  Arena workspace(bench.device(), MemoryTag::workspace);
  const Context ctx{workspace};
  const auto filled = [&](DType of, const Shape& shape, std::string_view name) {
    const Tensor t = arena.tensor(of, shape);
    fill_random_blocks(t, normal(), name);
    return t;
  };
  const Tensor x = filled(dtype, {tokens, width}, "x");
  const Tensor w = filled(DType::f32, {experts, width}, "w");
  const Tensor w_narrow = filled(dtype, w.shape(), "w");
  const Tensor logits = filled(DType::f32, {tokens, experts}, "logits");
  const Tensor logits_narrow = filled(dtype, logits.shape(), "logits");
  const Tensor dw = arena.zeros(DType::f32, w.shape());
  const Tensor dx = arena.zeros(dtype, x.shape());
  const std::string shape = fmt::format("T {} H {} E {}", tokens, width, experts);
  const auto rate = [&](double flops, const std::function<void()>& call) {
    return flops / Bench::seconds(call, bench.device()) * 1e-9;
  };
  bench.compute_bound("router.forward", shape, dtype, op.forward_flops,
                      rate(op.forward_flops, [&] { gemm(ctx, x, w_narrow, logits, kTimesTransposed); }),
                      [&] { router_logits(ctx, x, w, logits); });
  bench.compute_bound("router.backward", shape, dtype, op.backward_flops,
                      rate(op.backward_flops,
                           [&] {
                             gemm(ctx, logits_narrow, x, dw, kAccumulateTransposed);
                             gemm(ctx, logits_narrow, w_narrow, dx, {});
                           }),
                      [&] { router_backward(ctx, logits, x, w, dw, dx); });
}

}  // namespace

XMOE_BENCHMARK(router) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    measure(bench, bench.tokens() / 2, 2048, 64, dtype);
    measure(bench, bench.tokens(), 4096, 128, dtype);
  }
}

}  // namespace xmoe
