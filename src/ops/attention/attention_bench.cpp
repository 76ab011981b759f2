// Attention against its products alone. The part of the diagonal tiles that is computed and thrown away
// lowers the share, so that it grows with the sequence.
#include "bench/support/attention_bound.h"
#include "bench/support/bench.h"
#include "ops/attention/attention_case.h"

namespace xmoe {
namespace {

XMOE_BENCHMARK(attention) {
  for (const AttentionShape& s : {
           AttentionShape{.batch = 16, .seq = 256, .heads = 4, .kv_heads = 4, .head_dim = 64},
           AttentionShape{.batch = 8, .seq = 512, .heads = 8, .kv_heads = 2, .head_dim = 64},
           AttentionShape{.batch = 2, .seq = 2048, .heads = 8, .kv_heads = 8, .head_dim = 32},
           AttentionShape{.batch = 2, .seq = 2048, .heads = 8, .kv_heads = 8, .head_dim = 128},
       }) {
    const OpCase op = attention_case(s);
    const std::string shape =
        fmt::format("{}x{} heads {}/{} D {}", s.batch, s.seq, s.heads, s.kv_heads, s.head_dim);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      OpRun run(op, dtype);
      run.forward();
      bench.compute_bound("attention.forward", shape, dtype, op.forward_flops,
                          attention_forward_bound(s, dtype), [&] { run.forward_again(); });
      bench.compute_bound("attention.backward", shape, dtype, op.backward_flops,
                          attention_backward_bound(s, dtype), [&] { run.backward_again(); });
    }
  }
}

}  // namespace
}  // namespace xmoe
