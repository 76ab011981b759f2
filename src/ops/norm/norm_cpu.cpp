// A row is read from memory once and gone over again while it is in the first cache.
#include "ops/norm/norm_cpu.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "ops/cpu_rows.h"

namespace xmoe::cpu {

namespace {

// Elements that a thread must have to be worth waking: some 10 microseconds of work.
constexpr std::int64_t kNormGrain = std::int64_t{1} << 13;
// Rows whose weight gradients are summed into one partial sum. Fixed, so that the result does not depend on
// the number of threads; 32 rows keep partial sums to 3 % of the rows, and give 2,048 tokens to 64 threads.
constexpr std::int64_t kBlockRows = 32;

std::int64_t norm_grain(std::int64_t width) { return std::max<std::int64_t>(1, kNormGrain / width); }

struct RowStats {
  float mean;
  float inverse_deviation;
};

template <NormKind kind, typename T>
RowStats statistics(const T* x, std::int64_t width, float epsilon) {
  const auto count = static_cast<float>(width);
  float mean = 0.0F;
  if constexpr (kind == NormKind::layer_norm) {
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < width; ++i) sum += static_cast<float>(x[i]);
    mean = sum / count;
  }
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < width; ++i) {
    const float centred = static_cast<float>(x[i]) - mean;
    squares += centred * centred;
  }
  return {mean, 1.0F / std::sqrt(squares / count + epsilon)};
}

// Not inlined: forward and recompute then run the same instructions, and their results are equal bit for bit.
template <NormKind kind, typename T>
[[gnu::noinline]] void normalise(const T* x, const T* weight, const T* bias, RowStats stats,
                                 std::int64_t width, T* y) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const float normal = (static_cast<float>(x[i]) - stats.mean) * stats.inverse_deviation;
    float value = normal * static_cast<float>(weight[i]);
    if constexpr (kind == NormKind::layer_norm) value += static_cast<float>(bias[i]);
    round_to(value, y[i]);
  }
}

// Backward of one row: with n = (x - mean) / deviation and g = dy * weight,
//   dx += (g - mean(g) - n * mean(g n)) / deviation    (rms_norm: without mean(g))
//   dweight += dy * n;  dbias += dy
template <NormKind kind, typename T>
void row_backward(const T* dy, const T* x, const T* weight, RowStats stats, std::int64_t width, T* dx,
                  float* dweight, float* dbias) {
  float sum_g = 0.0F;
  float sum_gn = 0.0F;
#pragma omp simd reduction(+ : sum_g, sum_gn)
  for (std::int64_t i = 0; i < width; ++i) {
    const float n = (static_cast<float>(x[i]) - stats.mean) * stats.inverse_deviation;
    const float g = static_cast<float>(dy[i]) * static_cast<float>(weight[i]);
    if constexpr (kind == NormKind::layer_norm) sum_g += g;
    sum_gn += g * n;
  }
  const auto count = static_cast<float>(width);
  const float mean_g = sum_g / count;
  const float mean_gn = sum_gn / count;
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const float n = (static_cast<float>(x[i]) - stats.mean) * stats.inverse_deviation;
    const auto d = static_cast<float>(dy[i]);
    const float g = d * static_cast<float>(weight[i]);
    round_to(static_cast<float>(dx[i]) + stats.inverse_deviation * (g - mean_g - n * mean_gn), dx[i]);
    dweight[i] += d * n;
    if constexpr (kind == NormKind::layer_norm) dbias[i] += d;
  }
}

// Calls f with the kind as a constant and an element of the dtype.
template <typename F>
void dispatch(NormKind kind, DType dtype, F&& f) {
  with_float(dtype, [&]<typename T>(T) {
    if (kind == NormKind::rms_norm)
      f.template operator()<NormKind::rms_norm, T>();
    else
      f.template operator()<NormKind::layer_norm, T>();
  });
}

// Adds rows of partial sums, `stride` apart, to `total` in order of the blocks.
void add_partials(const float* partials, std::int64_t blocks, std::int64_t stride, std::int64_t width,
                  float* total) {
  constexpr std::int64_t kColumns = 256;  // of a thread: wide enough to stream whole cache lines
  parallel_for((width + kColumns - 1) / kColumns, 1, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t begin = first * kColumns;
    const std::int64_t end = std::min(width, last * kColumns);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const float* row = partials + b * stride;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) total[i] += row[i];
    }
  });
}

}  // namespace

void norm_forward(NormKind kind, float epsilon, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  const Tensor& y, const Tensor& stats) {
  const std::int64_t width = x.dim(1);
  auto* kept = stats.data<float>();
  dispatch(kind, x.dtype(), [&]<NormKind k, typename T>() {
    const T* b = k == NormKind::layer_norm ? bias.data<T>() : nullptr;
    parallel_for(x.dim(0), norm_grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const T* row = x.data<T>() + t * width;
        const RowStats s = statistics<k>(row, width, epsilon);
        kept[2 * t] = s.mean;
        kept[2 * t + 1] = s.inverse_deviation;
        normalise<k>(row, weight.data<T>(), b, s, width, y.data<T>() + t * width);
      }
    });
  });
}

void norm_recompute(NormKind kind, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& stats, const Tensor& y) {
  const std::int64_t width = x.dim(1);
  const auto* kept = stats.data<float>();
  dispatch(kind, x.dtype(), [&]<NormKind k, typename T>() {
    const T* b = k == NormKind::layer_norm ? bias.data<T>() : nullptr;
    parallel_for(x.dim(0), norm_grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        normalise<k>(x.data<T>() + t * width, weight.data<T>(), b, {kept[2 * t], kept[2 * t + 1]}, width,
                     y.data<T>() + t * width);
    });
  });
}

void norm_backward(Arena& workspace, NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& weight,
                   const Tensor& stats, const Tensor& dx, const Tensor& dweight, const Tensor& dbias) {
  const std::int64_t rows = x.dim(0);
  const std::int64_t width = x.dim(1);
  const std::int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  const bool has_bias = kind == NormKind::layer_norm;
  const ArenaScope scope(workspace);
  // A block's sums of dweight, then of dbias.
  const std::int64_t stride = has_bias ? 2 * width : width;
  const Tensor partials = workspace.tensor(DType::f32, {blocks, stride});
  const auto* kept = stats.data<float>();
  dispatch(kind, x.dtype(), [&]<NormKind k, typename T>() {
    parallel_for(blocks, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t b = first; b < last; ++b) {
        float* sums = partials.data<float>() + b * stride;
        std::fill_n(sums, stride, 0.0F);
        for (std::int64_t t = b * kBlockRows; t < std::min(rows, (b + 1) * kBlockRows); ++t)
          row_backward<k>(dy.data<T>() + t * width, x.data<T>() + t * width, weight.data<T>(),
                          {kept[2 * t], kept[2 * t + 1]}, width, dx.data<T>() + t * width, sums,
                          has_bias ? sums + width : nullptr);
      }
    });
  });
  add_partials(partials.data<float>(), blocks, stride, width, dweight.data<float>());
  if (has_bias) add_partials(partials.data<float>() + width, blocks, stride, width, dbias.data<float>());
}

}  // namespace xmoe::cpu
