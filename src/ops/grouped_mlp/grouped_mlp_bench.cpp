// The experts' op against the same products, one expert after the other with rows split evenly, through the
// vendor's library.
#include "bench/support/bench.h"
#include "bench/support/expert_bound.h"
#include "ops/grouped_mlp/grouped_mlp_cases.h"

namespace xmoe {

XMOE_BENCHMARK(grouped_mlp) {
  const std::int64_t experts = 32;
  const std::int64_t rows = 16384;
  const std::int64_t hidden = 512;
  const std::int64_t ffn = 256;
  for (const auto activation : {Activation::gelu, Activation::swiglu}) {
    GroupedMlpSizes sizes;
    sizes.tokens = 4096;
    sizes.hidden = hidden;
    sizes.ffn = ffn;
    sizes.activation = activation;
    sizes.per_expert.assign(static_cast<std::size_t>(experts), rows / experts);
    const std::string shape = fmt::format("R {} H {} I {} E {} {}", rows, hidden, ffn, experts,
                                          activation == Activation::gelu ? "gelu" : "swiglu");
    const OpCase op = grouped_mlp_case(sizes, shape);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const ExpertBound bound = expert_bound(rows, hidden, ffn, experts, activation, dtype);
      OpRun run(op, dtype);
      run.forward();
      bench.compute_bound("grouped_mlp.forward", shape, dtype, op.forward_flops,
                          op.forward_flops / bound.forward_seconds * 1e-9, [&] { run.forward_again(); });
      bench.compute_bound("grouped_mlp.backward", shape, dtype, op.backward_flops,
                          op.backward_flops / bound.backward_seconds * 1e-9, [&] { run.backward_again(); });
    }
  }
}

}  // namespace xmoe
