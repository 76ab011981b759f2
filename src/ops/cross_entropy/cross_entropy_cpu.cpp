// Chunk by chunk of rows, in order: logits = x w^T, softmax of each row, dx = dlogits w, dw += dlogits^T x.
// The three products are bound by FLOPs and run on all threads; the softmax in between is bound by the bytes
// of the chunk's logits.
#include "ops/cross_entropy/cross_entropy_cpu.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "ops/cpu_math.h"
#include "ops/cpu_rows.h"
#include "ops/gemm/gemm_tile.h"

namespace xmoe::cpu {

namespace {

// f32 logits of a chunk. A share of the last-level cache keeps the passes of the softmax out of main memory;
// rows must still be many enough for dw, which is read and written once per chunk.
constexpr std::int64_t kChunkBytes = std::int64_t{16} << 20;
// However large the vocabulary: below this the products wait for w and dw.
constexpr std::int64_t kLeastRows = 256;
// Rows that a thread takes at a time through the softmax: small, since a chunk has few rows per thread.
constexpr std::int64_t kRowGrain = 4;

// Tiles of the products; fixed, so that results do not depend on the number of threads. 256 rows amortise the
// packing of the other operand. The rows of dx are the few rows of the chunk: there smaller tiles keep the
// threads busy, and sums as long as the vocabulary keep the tiles efficient.
struct TileSize {
  std::int64_t rows, columns;
};
constexpr TileSize kLogitsTile{256, 512};
constexpr TileSize kDxTile{128, 256};
constexpr TileSize kDwTile{256, 1024};

void multiply(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options,
              const TileSize& tile) {
  gemm_tiles({.m = c.dim(0),
              .n = c.dim(1),
              .k = a.dim(options.a == Transpose::yes ? 0 : 1),
              .a = a.raw(),
              .lda = a.dim(1),
              .b = b.raw(),
              .ldb = b.dim(1),
              .c = c.raw(),
              .ldc = c.dim(1),
              .input = a.dtype(),
              .output = c.dtype(),
              .options = options},
             tile.rows, tile.columns);
}

std::int64_t chunk_rows(std::int64_t rows, std::int64_t vocabulary) {
  const std::int64_t fitting = kChunkBytes / (vocabulary * static_cast<std::int64_t>(sizeof(float)));
  // Whole tiles of the product's rows.
  const std::int64_t tiles = std::max<std::int64_t>(1, fitting / kLeastRows);
  return std::min(rows, tiles * kLeastRows);
}

float sum_of_exponentials(const float* x, std::int64_t n, float shift) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t v = 0; v < n; ++v) sum += fast_exp(x[v] - shift);
  return sum;
}

template <typename T>
struct Row {
  float* logits;  // [V]
  T* dlogits;     // [V], or the memory of the logits when T is float; null: no gradients
  std::int32_t target;
};

// The loss of one row, and its gradient times `scale`.
template <typename T>
float finish_row(const Row<T>& row, std::int64_t vocabulary, float scale) {
  if (row.target == kIgnoredTarget) {
    if (row.dlogits != nullptr) std::fill_n(row.dlogits, vocabulary, T(0.0F));
    return 0.0F;
  }
  const float maximum = row_max(row.logits, vocabulary);
  const float sum = sum_of_exponentials(row.logits, vocabulary, maximum);
  const float at_target = row.logits[row.target];
  if (row.dlogits != nullptr) {
    // The exponentials are formed again rather than stored: reading and writing them would cost more.
    const float factor = scale / sum;
    const float* logits = row.logits;
    T* d = row.dlogits;
#pragma omp simd
    for (std::int64_t v = 0; v < vocabulary; ++v) round_to(fast_exp(logits[v] - maximum) * factor, d[v]);
    // Subtracting 1 before the rounding to T keeps what is left of a probability near 1.
    d[row.target] = T((fast_exp(at_target - maximum) / sum - 1.0F) * scale);
  }
  return maximum + std::log(sum) - at_target;
}

void check_targets(const Tensor& targets, std::int64_t vocabulary) {
  const auto* target = targets.data<std::int32_t>();
  for (std::int64_t t = 0; t < targets.dim(0); ++t)
    XMOE_CHECK(target[t] == kIgnoredTarget || (0 <= target[t] && target[t] < vocabulary),
               "target {} of row {} is outside the vocabulary of {}", target[t], t, vocabulary);
}

template <typename T>
void run(const Context& ctx, const Tensor& x, const Tensor& w, const Tensor& targets, const Tensor& losses,
         float grad_scale, const Tensor& dx, const Tensor& dw) {
  const ArenaScope scope(ctx.workspace);
  const std::int64_t rows = x.dim(0);
  const std::int64_t vocabulary = w.dim(0);
  const bool gradients = dx.defined();
  const std::int64_t chunk = chunk_rows(rows, vocabulary);
  const Tensor chunk_logits = ctx.workspace.tensor(DType::f32, {chunk, vocabulary});
  const bool in_place = x.dtype() == DType::f32;
  const Tensor chunk_dlogits =
      in_place || !gradients ? chunk_logits : ctx.workspace.tensor(x.dtype(), {chunk, vocabulary});
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t end = std::min(rows, begin + chunk);
    const Tensor logits = chunk_logits.slice(0, end - begin);
    const Tensor dlogits = chunk_dlogits.slice(0, end - begin);
    multiply(x.slice(begin, end), w, logits, {.b = Transpose::yes}, kLogitsTile);
    parallel_for(end - begin, kRowGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const Row<T> row{logits.data<float>() + r * vocabulary,
                         gradients ? static_cast<T*>(dlogits.raw()) + r * vocabulary : nullptr,
                         targets.data<std::int32_t>()[begin + r]};
        losses.data<float>()[begin + r] = finish_row(row, vocabulary, grad_scale);
      }
    });
    if (!gradients) continue;
    multiply(dlogits, w, dx.slice(begin, end), {}, kDxTile);
    multiply(dlogits, x.slice(begin, end), dw, {.a = Transpose::yes, .accumulate = true}, kDwTile);
  }
}

}  // namespace

void linear_cross_entropy(const Context& ctx, const Tensor& x, const Tensor& w, std::int64_t vocabulary,
                          const Tensor& targets, const Tensor& losses, float grad_scale, const Tensor& dx,
                          const Tensor& dw) {
  check_targets(targets, vocabulary);
  const Tensor used_dw = dw.defined() ? dw.slice(0, vocabulary) : dw;
  with_float(x.dtype(), [&]<typename T>(T) {
    run<T>(ctx, x, w.slice(0, vocabulary), targets, losses, grad_scale, dx, used_dw);
  });
}

}  // namespace xmoe::cpu
