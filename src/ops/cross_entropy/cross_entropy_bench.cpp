// The fused loss against its three products run densely, with all logits in memory.
#include "bench/support/bench.h"
#include "ops/cross_entropy/cross_entropy_case.h"
#include "ops/gemm/gemm.h"

namespace xmoe {
namespace {

double dense_gflops(const OpCase& op, OpRun& run, const CrossEntropyShape& s, DType dtype) {
  Arena arena({}, MemoryTag::workspace);
  const Tensor logits = arena.zeros(DType::f32, {s.tokens, s.rows});
  const Tensor dlogits = dtype == DType::f32 ? logits : arena.zeros(dtype, {s.tokens, s.rows});
  const double time = Bench::seconds([&] {
    gemm(run.context(), run.in[0], run.in[1], logits, {.b = Transpose::yes});
    gemm(run.context(), dlogits, run.in[1], run.d_in[0], {});
    gemm(run.context(), dlogits, run.in[0], run.d_in[1], {.a = Transpose::yes, .accumulate = true});
  });
  return op.backward_flops / time * 1e-9;
}

XMOE_BENCHMARK(cross_entropy) {
  for (const CrossEntropyShape& s : {
           CrossEntropyShape{.tokens = 4096, .hidden = 256, .vocabulary = 8192, .rows = 8192},
           CrossEntropyShape{.tokens = 2048, .hidden = 512, .vocabulary = 8192, .rows = 8192},
           CrossEntropyShape{.tokens = 1024, .hidden = 1024, .vocabulary = 50304, .rows = 50304},
       }) {
    const OpCase op = cross_entropy_case(s);
    const std::string shape = fmt::format("T {} H {} V {}", s.tokens, s.hidden, s.vocabulary);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      OpRun run(op, dtype);
      bench.compute_bound("cross_entropy", shape, dtype, op.backward_flops, dense_gflops(op, run, s, dtype),
                          [&] { run.backward_again(); });
    }
  }
}

}  // namespace
}  // namespace xmoe
