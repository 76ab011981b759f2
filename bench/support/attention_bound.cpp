#include "bench/support/attention_bound.h"

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "bench/support/bench.h"
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

}  // namespace

// Tiles as attention_cpu.cpp and attention_backward_cpu.cpp cut them.
double attention_forward_bound(const AttentionShape& s, DType dtype) {
  const std::int64_t rows = std::min<std::int64_t>(128, s.seq);
  const std::int64_t keys = std::min<std::int64_t>(512, s.seq);
  return products_gflops({{rows, keys, s.head_dim, s.qkv_width(), s.qkv_width(), {.b = Transpose::yes}},
                          {rows, s.head_dim, keys, keys, s.qkv_width(), {}}},
                         dtype);
}

double attention_backward_bound(const AttentionShape& s, DType dtype) {
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

}  // namespace xmoe
