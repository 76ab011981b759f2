// The fused loss against its three products run densely, with all logits in memory.
#include "bench/support/bench.h"
#include "ops/cross_entropy/cross_entropy_case.h"
#include "ops/gemm/gemm.h"

namespace xmoe {
namespace {

double dense_gflops(const OpCase& op, OpRun& run, const CrossEntropyShape& s, DType dtype) {
  const Context& ctx = run.context();
  Arena arena(ctx.device(), MemoryTag::workspace);
  const Tensor logits = arena.tensor(DType::f32, {s.tokens, s.rows});
  // Of the logits themselves, since a GPU multiplies zeros faster.
  gemm(ctx, run.in[0], run.in[1], logits, kTimesTransposed);
  const Tensor dlogits = dtype == DType::f32 ? logits : arena.tensor(dtype, {s.tokens, s.rows});
  if (dtype != DType::f32) convert(ctx, logits, dlogits);
  const double time = Bench::seconds(
      [&] {
        gemm(ctx, run.in[0], run.in[1], logits, kTimesTransposed);
        gemm(ctx, dlogits, run.in[1], run.d_in[0], {});
        gemm(ctx, dlogits, run.in[0], run.d_in[1], kAccumulateTransposed);
      },
      ctx.device());
  return op.backward_flops / time * 1e-9;
}

void measure(Bench& bench, const CrossEntropyShape& s, DType dtype) {
  const OpCase op = cross_entropy_case(s);
  OpRun run(op, dtype, bench.device());
  const float scale = 1.0F / static_cast<float>(s.tokens);
  bench.compute_bound("cross_entropy", fmt::format("T {} H {} V {}", s.tokens, s.hidden, s.vocabulary), dtype,
                      op.backward_flops, dense_gflops(op, run, s, dtype), [&] {
                        linear_cross_entropy(run.context(), run.in[0], run.in[1], s.vocabulary, run.in[2],
                                             run.out[0], scale, run.d_in[0], run.d_in[1]);
                      });
}

XMOE_BENCHMARK(cross_entropy) {
  const auto shapes =
      bench.device().is_cpu()
          ? std::vector<CrossEntropyShape>{{.tokens = 4096, .hidden = 256, .vocabulary = 8192, .rows = 8192},
                                           {.tokens = 2048, .hidden = 512, .vocabulary = 8192, .rows = 8192},
                                           {.tokens = 1024,
                                            .hidden = 1024,
                                            .vocabulary = 50304,
                                            .rows = 50304}}
          : std::vector<CrossEntropyShape>{
                {.tokens = 8192, .hidden = 1024, .vocabulary = 32000, .rows = 32000},
                {.tokens = 8192, .hidden = 2048, .vocabulary = 50304, .rows = 50304},
                {.tokens = 8192, .hidden = 2048, .vocabulary = 50257, .rows = 50304}};
  for (const CrossEntropyShape& s : shapes)
    for (const DType dtype : {DType::f32, DType::bf16}) measure(bench, s, dtype);
}

}  // namespace
}  // namespace xmoe
