// Attention against its products alone. On the CPU, the part of the diagonal tiles that is computed and
// thrown away lowers the share, so that it grows with the sequence. On a GPU the bound is a large product of
// the vendor's library, which no attention reaches: its exponentials take as long as its products.
#include "bench/support/attention_bound.h"
#include "bench/support/bench.h"
#include "device/gpu_built.h"
#include "ops/attention/attention_case.h"
#include "ops/attention/attention_gpu.h"
#include "ops/gemm/gemm.h"

namespace xmoe {
namespace {

double large_product_gflops(const Device& device, DType dtype) {
  constexpr std::int64_t kSide = 8192;
  Arena arena(device, MemoryTag::workspace);
  const Tensor a = arena.tensor(dtype, {kSide, kSide});
  const Tensor b = arena.tensor(dtype, {kSide, kSide});
  const Tensor c = arena.tensor(dtype, {kSide, kSide});
  for (const Tensor& t : {a, b}) fill_random(t, normal(), Rng(1, "side"));  // zeros would be faster
  const double time = Bench::seconds([&] { gemm({arena}, a, b, c, {}); }, device);
  return 2.0 * static_cast<double>(kSide * kSide) * static_cast<double>(kSide) / time * 1e-9;
}

struct Bounds {
  double forward, backward;
};

void measure(Bench& bench, const AttentionShape& s, DType dtype, const Bounds& bounds) {
  const OpCase op = attention_case(s);
  const std::string shape =
      fmt::format("{}x{} heads {}/{} D {}", s.batch, s.seq, s.heads, s.kv_heads, s.head_dim);
  OpRun run(op, dtype, bench.device());
  run.forward();
  bench.compute_bound("attention.forward", shape, dtype, op.forward_flops, bounds.forward,
                      [&] { run.forward_again(); });
  bench.compute_bound("attention.backward", shape, dtype, op.backward_flops, bounds.backward,
                      [&] { run.backward_again(); });
  if constexpr (kGpuBuilt) {
    const auto in_any_order = [&] {
      return gpu::attention_backward_in_any_order(run.context(), s, run.d_out[0], run.in[0], run.out[0],
                                                  run.out[1], run.d_in[0]);
    };
    if (!bench.device().is_cpu() && in_any_order())  // what the fixed order costs
      bench.compute_bound("attention.backward.any_order", shape, dtype, op.backward_flops, bounds.backward,
                          [&] { in_any_order(); });
  }
}

// One new position per sequence: bound by the bytes of the cache.
void measure_decode(Bench& bench, const AttentionShape& s, DType dtype) {
  Arena arena(bench.device(), MemoryTag::saved);
  Arena workspace(bench.device(), MemoryTag::workspace);
  const Tensor q = arena.zeros(dtype, {s.batch, s.heads * s.head_dim});
  const Tensor keys = arena.zeros(dtype, {s.batch, s.seq, s.kv_heads * s.head_dim});
  const Tensor values = arena.zeros(dtype, keys.shape());
  const Tensor out = arena.zeros(dtype, q.shape());
  bench.memory_bound("attention.decode",
                     fmt::format("{}x{} heads {}/{} D {}", s.batch, s.seq, s.heads, s.kv_heads, s.head_dim),
                     dtype, static_cast<double>(keys.bytes() + values.bytes()),
                     [&] { attention_decode({workspace}, s, s.seq, q, keys, values, out); });
}

XMOE_BENCHMARK(attention) {
  if (bench.device().is_cpu()) {
    for (const AttentionShape& s : {
             AttentionShape{.batch = 16, .seq = 256, .heads = 4, .kv_heads = 4, .head_dim = 64},
             AttentionShape{.batch = 8, .seq = 512, .heads = 8, .kv_heads = 2, .head_dim = 64},
             AttentionShape{.batch = 2, .seq = 2048, .heads = 8, .kv_heads = 8, .head_dim = 32},
             AttentionShape{.batch = 2, .seq = 2048, .heads = 8, .kv_heads = 8, .head_dim = 128},
         })
      for (const DType dtype : {DType::f32, DType::bf16})
        measure(bench, s, dtype, {attention_forward_bound(s, dtype), attention_backward_bound(s, dtype)});
    return;
  }
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double product = large_product_gflops(bench.device(), dtype);
    for (const AttentionShape& s : {
             AttentionShape{.batch = 8, .seq = 2048, .heads = 16, .kv_heads = 16, .head_dim = 128},
             AttentionShape{.batch = 8, .seq = 2048, .heads = 16, .kv_heads = 4, .head_dim = 128},
             AttentionShape{.batch = 8, .seq = 2048, .heads = 16, .kv_heads = 16, .head_dim = 64},
             AttentionShape{.batch = 4, .seq = 4096, .heads = 16, .kv_heads = 16, .head_dim = 128},
             AttentionShape{.batch = 8, .seq = 1024, .heads = 16, .kv_heads = 16, .head_dim = 100},
         })
      measure(bench, s, dtype, {product, product});
    measure_decode(bench, {.batch = 8, .seq = 4096, .heads = 16, .kv_heads = 4, .head_dim = 128}, dtype);
  }
}

}  // namespace
}  // namespace xmoe
