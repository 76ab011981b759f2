// Chunk by chunk of rows, in order: logits = x w^T, softmax of each row, dx = dlogits w, dw += dlogits^T x.
// The three products are bound by FLOPs and run on all threads; the softmax in between is bound by the bytes
// of the chunk's logits.
#include "ops/cross_entropy/cross_entropy_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

// Of the logits of a row; a row of VocabularySlice's [rows, 3].
struct Statistics {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0.0F;  // of exp(logit - maximum)
  float at_target = 0.0F;
};
static_assert(sizeof(Statistics) == 3 * sizeof(float));

constexpr std::int64_t kElsewhere = -1;  // the target of a row whose word is another slice's

Statistics statistics_of(const float* logits, std::int64_t vocabulary, std::int64_t target) {
  Statistics s;
  if (vocabulary == 0) return s;
  s.maximum = row_max(logits, vocabulary);
  s.sum = sum_of_exponentials(logits, vocabulary, s.maximum);
  if (target != kElsewhere) s.at_target = logits[target];
  return s;
}

// dlogits times `scale`; they may take the place of the logits.
template <typename T>
void row_gradient(const float* logits, std::int64_t vocabulary, std::int64_t target, const Statistics& s,
                  float scale, T* d) {
  // The exponentials are formed again rather than stored: reading and writing them would cost more.
  const float factor = scale / s.sum;
  const float maximum = s.maximum;
#pragma omp simd
  for (std::int64_t v = 0; v < vocabulary; ++v) round_to(fast_exp(logits[v] - maximum) * factor, d[v]);
  // Subtracting 1 before the rounding to T keeps what is left of a probability near 1.
  if (target != kElsewhere) d[target] = T((fast_exp(s.at_target - maximum) / s.sum - 1.0F) * scale);
}

void check_targets(const Tensor& targets, std::int64_t words) {
  const auto* target = targets.data<std::int32_t>();
  for (std::int64_t t = 0; t < targets.dim(0); ++t)
    XMOE_CHECK(target[t] == kIgnoredTarget || (0 <= target[t] && target[t] < words),
               "target {} of row {} is outside the vocabulary of {}", target[t], t, words);
}

struct Arguments {
  Tensor x, w, targets, losses;
  float grad_scale;
  Tensor dx, dw;
  const VocabularySlice* slice;

  // The row of w for the target of row t, or kElsewhere.
  std::int64_t target_row(std::int64_t t) const {
    const std::int64_t row = targets.data<std::int32_t>()[t] - (slice != nullptr ? slice->first : 0);
    return 0 <= row && row < w.dim(0) ? row : kElsewhere;
  }
};

// Losses and gradients of a chunk from its logits, rows begin and following.
template <typename T>
void finish_chunk(const Context& ctx, const Arguments& args, std::int64_t begin, const Tensor& logits,
                  const Tensor& dlogits) {
  const std::int64_t rows = logits.dim(0);
  const std::int64_t vocabulary = logits.dim(1);
  const auto logits_of = [&](std::int64_t r) { return logits.data<float>() + r * vocabulary; };
  const auto own_statistics = [&](std::int64_t r) {
    return statistics_of(logits_of(r), vocabulary, args.target_row(begin + r));
  };
  const auto finish = [&](std::int64_t r, const Statistics& s) {
    float& loss = args.losses.data<float>()[begin + r];
    T* d = args.dx.defined() ? static_cast<T*>(dlogits.raw()) + r * vocabulary : nullptr;
    if (args.targets.data<std::int32_t>()[begin + r] == kIgnoredTarget) {
      loss = 0.0F;
      if (d != nullptr) std::fill_n(d, vocabulary, T(0.0F));
      return;
    }
    if (d != nullptr)
      row_gradient(logits_of(r), vocabulary, args.target_row(begin + r), s, args.grad_scale, d);
    loss = s.maximum + std::log(s.sum) - s.at_target;
  };
  const auto for_rows = [&](const auto& body) {
    parallel_for(rows, kRowGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) body(r);
    });
  };
  if (args.slice == nullptr) {
    for_rows([&](std::int64_t r) { finish(r, own_statistics(r)); });
    return;
  }
  const ArenaScope scope(ctx.workspace);
  const Tensor statistics = ctx.workspace.tensor(DType::f32, {rows, 3});
  auto* of_row = reinterpret_cast<Statistics*>(statistics.data<float>());
  for_rows([&](std::int64_t r) { of_row[r] = own_statistics(r); });
  args.slice->merge(statistics);
  for_rows([&](std::int64_t r) { finish(r, of_row[r]); });
}

template <typename T>
void run(const Context& ctx, const Arguments& args, std::int64_t chunk) {
  const ArenaScope scope(ctx.workspace);
  const std::int64_t rows = args.x.dim(0);
  const std::int64_t vocabulary = args.w.dim(0);
  const bool gradients = args.dx.defined();
  const Tensor chunk_logits = ctx.workspace.tensor(DType::f32, {chunk, vocabulary});
  const bool in_place = args.x.dtype() == DType::f32;
  const Tensor chunk_dlogits =
      in_place || !gradients ? chunk_logits : ctx.workspace.tensor(args.x.dtype(), {chunk, vocabulary});
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t end = std::min(rows, begin + chunk);
    const Tensor x = args.x.slice(begin, end);
    const Tensor logits = chunk_logits.slice(0, end - begin);
    const Tensor dlogits = chunk_dlogits.slice(0, end - begin);
    multiply(x, args.w, logits, {.b = Transpose::yes}, kLogitsTile);
    finish_chunk<T>(ctx, args, begin, logits, dlogits);
    if (!gradients) continue;
    multiply(dlogits, args.w, args.dx.slice(begin, end), {}, kDxTile);
    multiply(dlogits, x, args.dw, {.a = Transpose::yes, .accumulate = true}, kDwTile);
  }
}

}  // namespace

void merge_statistics(const Tensor& parts, const Tensor& merged) {
  const std::int64_t slices = parts.dim(0);
  const std::int64_t rows = parts.dim(1);
  const auto* part = reinterpret_cast<const Statistics*>(parts.data<float>());
  auto* out = reinterpret_cast<Statistics*>(merged.data<float>());
  for (std::int64_t r = 0; r < rows; ++r) {
    Statistics all;
    for (std::int64_t i = 0; i < slices; ++i) all.maximum = std::max(all.maximum, part[i * rows + r].maximum);
    for (std::int64_t i = 0; i < slices; ++i) {
      const Statistics& s = part[i * rows + r];
      if (s.sum != 0.0F) all.sum += s.sum * std::exp(s.maximum - all.maximum);
      all.at_target += s.at_target;
    }
    out[r] = all;
  }
}

void linear_cross_entropy(const Context& ctx, const Tensor& x, const Tensor& w, std::int64_t vocabulary,
                          const Tensor& targets, const Tensor& losses, float grad_scale, const Tensor& dx,
                          const Tensor& dw, const VocabularySlice* slice) {
  check_targets(targets, slice != nullptr ? slice->words : vocabulary);
  const Arguments args{x,
                       w.slice(0, vocabulary),
                       targets,
                       losses,
                       grad_scale,
                       dx,
                       dw.defined() ? dw.slice(0, vocabulary) : dw,
                       slice};
  // Chunks are the same for all slices, which hold as many rows, although not all as many words.
  const std::int64_t chunk = chunk_rows(x.dim(0), w.dim(0));
  with_float(x.dtype(), [&]<typename T>(T) { run<T>(ctx, args, chunk); });
}

}  // namespace xmoe::cpu
