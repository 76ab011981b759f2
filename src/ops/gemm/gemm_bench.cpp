#include "bench/support/bench.h"
#include "bench/support/gemm_bound.h"
#include "ops/gemm/gemm_case.h"

namespace xmoe {

namespace {

void measure(Bench& bench, const GemmSize& s, const GemmOptions& options, DType input, DType output) {
  const OpCase op = gemm_case(s, options, output == DType::f32 ? ElementKind::f32 : ElementKind::compute);
  OpRun run(op, input);
  run.forward();
  // The name of the case says the transposes; the output is said where it differs from the input.
  const std::string name = op.name + (output == input ? "" : ".to_f32");
  bench.compute_bound(name, fmt::format("{}x{}x{}", s.m, s.n, s.k), input, op.forward_flops,
                      gemm_bound(s.m, s.n, s.k, input, output, options),
                      [&] { gemm(run.context(), run.in[0], run.in[1], run.out[0], options); });
}

}  // namespace

XMOE_BENCHMARK(gemm) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t size : {512, 1024}) measure(bench, {size, size, size}, {}, dtype, dtype);
    // A token batch through a projection: forward, its input's gradient, its weight's gradient.
    measure(bench, {2048, 1024, 512}, {.b = Transpose::yes}, dtype, dtype);
    measure(bench, {2048, 512, 1024}, {}, dtype, dtype);
    measure(bench, {1024, 512, 2048}, {.a = Transpose::yes, .accumulate = true}, dtype, DType::f32);
  }
}

}  // namespace xmoe
