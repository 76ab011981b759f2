#include "ops/reduce/reduce_cpu.h"

#include <algorithm>

#include "base/parallel.h"

namespace xmoe::cpu {

namespace {

constexpr std::int64_t kBlock = 8192;  // 32 KB of floats: one stretch of a core's first cache

template <typename T, typename Term>
double block_sum(const T* x, std::int64_t count, Term term) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += term(static_cast<double>(static_cast<float>(x[i])));
  return sum;
}

template <typename Term>
double reduce(Arena& workspace, const Tensor& x, Term term) {
  const std::int64_t count = x.numel();
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  const ArenaScope scope(workspace);
  auto* sums = static_cast<double*>(workspace.allocate(static_cast<std::size_t>(blocks) * sizeof(double)));
  with_float_or<bf16>(x.dtype(), [&]<typename T>(T) {
    const T* data = x.data<T>();
    parallel_for(blocks, 2, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t b = begin; b < end; ++b)
        sums[b] = block_sum(data + b * kBlock, std::min(kBlock, count - b * kBlock), term);
    });
  });
  double total = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b) total += sums[b];
  return total;
}

}  // namespace

double sum(Arena& workspace, const Tensor& x) {
  return reduce(workspace, x, [](double v) { return v; });
}

double sum_of_squares(Arena& workspace, const Tensor& x) {
  return reduce(workspace, x, [](double v) { return v * v; });
}

}  // namespace xmoe::cpu
