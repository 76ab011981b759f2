// Attention against the products alone: the bound is what gemm_tile reaches on tiles of the same sizes and
// strides on all threads. The masked half counts in neither; the part of the diagonal tiles that is computed
// and thrown away lowers the share, so that it grows with the sequence.
#include <algorithm>

#include "base/parallel.h"
#include "bench/support/bench.h"
#include "ops/attention/attention_case.h"
#include "ops/gemm/gemm_tile.h"

namespace xmoe {
namespace {

struct Product {
  std::int64_t m, n, k;
  std::int64_t lda, ldb;
  GemmOptions options;
};

double products_gflops(const std::vector<Product>& products, DType dtype) {
  std::int64_t elements = 0;
  double flops = 0.0;
  for (const Product& p : products) {
    elements = std::max({elements, std::max(p.m, p.k) * p.lda, std::max(p.n, p.k) * p.ldb, p.m * p.n});
    flops += 2.0 * static_cast<double>(p.m * p.n * p.k);
  }
  // Long against the start and the end of a parallel region.
  constexpr double kFlopsOfTask = 5e8;
  const auto repeats = static_cast<std::int64_t>(std::max(1.0, kFlopsOfTask / flops));
  const std::int64_t threads = thread_count();
  Arena arena({}, MemoryTag::workspace);
  const Tensor a = arena.zeros(dtype, {threads, elements});
  const Tensor b = arena.zeros(dtype, {threads, elements});
  const Tensor c = arena.zeros(DType::f32, {threads, elements});
  const double time = Bench::seconds([&] {
    parallel_tasks(threads, [&](std::int64_t task, int) {
      for (std::int64_t i = 0; i < repeats * static_cast<std::int64_t>(products.size()); ++i) {
        const Product& p = products[static_cast<std::size_t>(i) % products.size()];
        gemm_tile({.m = p.m,
                   .n = p.n,
                   .k = p.k,
                   .a = a.slice(task, task + 1).raw(),
                   .lda = p.lda,
                   .b = b.slice(task, task + 1).raw(),
                   .ldb = p.ldb,
                   .c = c.slice(task, task + 1).raw(),
                   .ldc = p.n,
                   .input = dtype,
                   .output = DType::f32,
                   .options = p.options});
      }
    });
  });
  return flops * static_cast<double>(repeats * threads) / time * 1e-9;
}

// Tiles as attention_cpu.cpp and attention_backward_cpu.cpp cut them.
double forward_bound(const AttentionShape& s, DType dtype) {
  const std::int64_t rows = std::min<std::int64_t>(128, s.seq);
  const std::int64_t keys = std::min<std::int64_t>(512, s.seq);
  return products_gflops({{rows, keys, s.head_dim, s.qkv_width(), s.qkv_width(), {.b = Transpose::yes}},
                          {rows, s.head_dim, keys, keys, s.qkv_width(), {}}},
                         dtype);
}

double backward_bound(const AttentionShape& s, DType dtype) {
  const std::int64_t rows = std::min<std::int64_t>(256, s.seq);
  const std::int64_t keys = std::min<std::int64_t>(128, s.seq);
  const std::int64_t d = s.head_dim;
  const std::int64_t width = s.qkv_width();
  const GemmOptions sum{.accumulate = true};
  const GemmOptions transposed_sum{.a = Transpose::yes, .accumulate = true};
  return products_gflops({{rows, keys, d, width, width, {.b = Transpose::yes}},
                          {rows, keys, d, s.heads * d, width, {.b = Transpose::yes}},
                          {rows, d, keys, keys, width, sum},
                          {keys, d, rows, keys, width, transposed_sum},
                          {keys, d, rows, keys, s.heads * d, transposed_sum}},
                         dtype);
}

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
      bench.compute_bound("attention.forward", shape, dtype, op.forward_flops, forward_bound(s, dtype),
                          [&] { run.forward_again(); });
      bench.compute_bound("attention.backward", shape, dtype, op.backward_flops, backward_bound(s, dtype),
                          [&] { run.backward_again(); });
    }
  }
}

}  // namespace
}  // namespace xmoe
