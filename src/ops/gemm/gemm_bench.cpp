#include <algorithm>

#include "bench/support/bench.h"
#include "bench/support/gemm_bound.h"
#include "bench/support/random_blocks.h"
#include "device/gpu_built.h"
#include "ops/gemm/gemm_case.h"
#include "ops/gemm/gemm_gpu.h"

namespace xmoe {

namespace {

// On the CPU, a primitive compiled for the shape; on a GPU, the fastest of the library's proposals.
double bound_gflops(const Bench& bench, const GemmSize& s, const Context& ctx, const Tensor& a,
                    const Tensor& b, const Tensor& c, const GemmOptions& options, double flops) {
  if constexpr (kGpuBuilt)
    if (!bench.device().is_cpu()) {
      double best = 0.0;
      for (const auto& proposal : gpu::gemm_proposals(ctx, a, b, c, options))
        best = std::max(best, flops / Bench::seconds(proposal, bench.device()) * 1e-9);
      return best;
    }
  return gemm_bound(s.m, s.n, s.k, a.dtype(), c.dtype(), options);
}

void measure(Bench& bench, const GemmSize& s, const GemmOptions& options, DType input, DType output) {
  const OpCase op = gemm_case(s, options, output == DType::f32 ? ElementKind::f32 : ElementKind::compute);
  Arena arena(bench.device(), MemoryTag::saved);
  Arena workspace(bench.device(), MemoryTag::workspace);
  const Context ctx{workspace};
  const Tensor a = arena.tensor(input, op.inputs[0].shape);
  const Tensor b = arena.tensor(input, op.inputs[1].shape);
  const Tensor c = arena.zeros(output, op.outputs[0].shape);
  fill_random_blocks(a, normal(), "a");
  fill_random_blocks(b, normal(), "b");
  // The name of the case says the transposes; the output is said where it differs from the input.
  const std::string name = op.name + (output == input ? "" : ".to_f32");
  bench.compute_bound(name, fmt::format("{}x{}x{}", s.m, s.n, s.k), input, op.forward_flops,
                      bound_gflops(bench, s, ctx, a, b, c, options, op.forward_flops),
                      [&] { gemm(ctx, a, b, c, options); });
}

}  // namespace

XMOE_BENCHMARK(gemm) {
  const bool cpu = bench.device().is_cpu();
  const auto squares = cpu ? std::vector<std::int64_t>{512, 1024} : std::vector<std::int64_t>{2048, 8192};
  const std::int64_t tokens = cpu ? 2048 : bench.tokens();
  const std::int64_t scale = cpu ? 1 : 4;
  const std::int64_t hidden = 512 * scale;
  const std::int64_t ffn = 1024 * scale;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t size : squares) measure(bench, {size, size, size}, {}, dtype, dtype);
    // A token batch through a projection: forward, its input's gradient, its weight's gradient.
    measure(bench, {tokens, ffn, hidden}, {.b = Transpose::yes}, dtype, dtype);
    measure(bench, {tokens, hidden, ffn}, {}, dtype, dtype);
    measure(bench, {ffn, hidden, tokens}, {.a = Transpose::yes, .accumulate = true}, dtype, DType::f32);
  }
}

}  // namespace xmoe
