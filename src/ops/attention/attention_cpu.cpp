// Forward: a task is one block of queries of one head. It walks over blocks of keys up to the diagonal, with
// a running maximum and sum per row (online softmax), so that scores live in the L2 cache only. Bound by the
// two products; the exponentials take most of the rest.
#include "ops/attention/attention_cpu.h"

#include <algorithm>
#include <limits>

#include "base/parallel.h"
#include "ops/attention/attention_rows.h"

namespace xmoe::cpu {

namespace {

// Rows of a task: 128 give the products their full speed. 64 would waste less of the masked triangle on the
// diagonal, but were no faster at any length from 256 (bench: attention).
constexpr std::int64_t kQueryBlock = 128;
// Keys at a time: 128 x 512 scores in f32 and in bf16 are 384 KiB. A multiple of the query block, so that
// every row of a tile has a key.
constexpr std::int64_t kKeyBlock = 512;

template <typename T>
struct ForwardScratch {
  float* scores;        // [kQueryBlock, kKeyBlock]
  T* probabilities;     // the same; shares the memory of the scores when T is float
  float* accumulator;   // [kQueryBlock, D]
  float* maxima;        // [kQueryBlock]
  float* denominators;  // [kQueryBlock]

  static std::size_t bytes(std::int64_t d) {
    const std::size_t rounded =
        std::is_same_v<T, float> ? 0 : ThreadScratch::size<T>(kQueryBlock * kKeyBlock);
    return ThreadScratch::size<float>(kQueryBlock * kKeyBlock) + rounded +
           ThreadScratch::size<float>(kQueryBlock * d) + 2 * ThreadScratch::size<float>(kQueryBlock);
  }
  ForwardScratch(std::byte* data, std::int64_t d) {
    ThreadScratch scratch(data);
    scores = scratch.take<float>(kQueryBlock * kKeyBlock);
    if constexpr (std::is_same_v<T, float>) {
      probabilities = scores;
    } else {
      probabilities = scratch.take<T>(kQueryBlock * kKeyBlock);
    }
    accumulator = scratch.take<float>(kQueryBlock * d);
    maxima = scratch.take<float>(kQueryBlock);
    denominators = scratch.take<float>(kQueryBlock);
  }
};

// Rows [first, first + rows) of one head.
template <typename T>
void forward_block(const ForwardScratch<T>& s, std::int64_t d, float scale, std::int64_t first,
                   std::int64_t rows, HeadRows<const T> q, HeadRows<const T> k, HeadRows<const T> v,
                   HeadRows<T> out, float* lse) {
  std::fill_n(s.maxima, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(s.denominators, rows, 0.0F);
  const std::int64_t keys = first + rows;
  for (std::int64_t j = 0; j < keys; j += kKeyBlock) {
    const std::int64_t width = std::min(kKeyBlock, keys - j);
    multiply(rows, width, d, q.row(first), q.stride, Transpose::no, k.row(j), k.stride, Transpose::yes,
             s.scores, width, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t visible = std::min(width, first + r - j + 1);
      const float* scores = s.scores + r * width;
      T* p = s.probabilities + r * width;
      const float maximum = std::max(s.maxima[r], scale * row_max(scores, visible));
      const float sum = exponentials(scores, visible, scale, maximum, p);
      std::fill(p + visible, p + width, T(0.0F));
      if (j > 0 && maximum > s.maxima[r]) {
        const float correction = fast_exp(s.maxima[r] - maximum);
        s.denominators[r] *= correction;
        float* accumulator = s.accumulator + r * d;
        for (std::int64_t c = 0; c < d; ++c) accumulator[c] *= correction;
      }
      s.denominators[r] += sum;
      s.maxima[r] = maximum;
    }
    multiply(rows, d, width, static_cast<const T*>(s.probabilities), width, Transpose::no, v.row(j), v.stride,
             Transpose::no, s.accumulator, d, j > 0);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const float inverse = 1.0F / s.denominators[r];
    const float* accumulator = s.accumulator + r * d;
    T* o = out.row(first + r);
    for (std::int64_t c = 0; c < d; ++c) o[c] = T(accumulator[c] * inverse);
    lse[first + r] = s.maxima[r] + std::log(s.denominators[r]);
  }
}

template <typename T>
void forward(const Context& ctx, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
             const Tensor& lse) {
  const ArenaScope scope(ctx.workspace);
  const std::size_t bytes = ForwardScratch<T>::bytes(shape.head_dim);
  auto* scratch =
      static_cast<std::byte*>(ctx.workspace.allocate(bytes * static_cast<std::size_t>(thread_count())));
  const QkvLayout<const T> layout{shape, qkv.data<T>()};
  const float scale = score_scale(shape);
  const std::int64_t blocks = (shape.seq + kQueryBlock - 1) / kQueryBlock;
  const std::int64_t sequences = shape.batch * shape.heads;
  parallel_tasks(sequences * blocks, [&](std::int64_t task, int thread) {
    // The last blocks have the most keys: they go first, so that threads end together.
    const std::int64_t first = (blocks - 1 - task / sequences) * kQueryBlock;
    const std::int64_t b = task % sequences / shape.heads;
    const std::int64_t head = task % shape.heads;
    const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
    forward_block<T>(ForwardScratch<T>(scratch + static_cast<std::size_t>(thread) * bytes, shape.head_dim),
                     shape.head_dim, scale, first, std::min(kQueryBlock, shape.seq - first),
                     layout.q(b, head), layout.k(b, kv_head), layout.v(b, kv_head),
                     output_rows(shape, out.data<T>(), b, head),
                     lse.data<float>() + (b * shape.heads + head) * shape.seq);
  });
}

template <typename T>
void decode(const Context& ctx, const AttentionShape& shape, std::int64_t length, const Tensor& q,
            const Tensor& keys, const Tensor& values, const Tensor& out) {
  const ArenaScope scope(ctx.workspace);
  const std::int64_t d = shape.head_dim;
  const std::int64_t stride = shape.kv_heads * d;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const float scale = score_scale(shape);
  const std::size_t bytes = ThreadScratch::size<float>(length) + ThreadScratch::size<float>(d);
  auto* memory =
      static_cast<std::byte*>(ctx.workspace.allocate(bytes * static_cast<std::size_t>(thread_count())));
  parallel_tasks(shape.batch * shape.heads, [&](std::int64_t task, int thread) {
    ThreadScratch scratch(memory + static_cast<std::size_t>(thread) * bytes);
    auto* p = scratch.take<float>(length);
    auto* accumulator = scratch.take<float>(d);
    const std::int64_t b = task / shape.heads;
    const std::int64_t cached = b * shape.seq * stride + task % shape.heads / group * d;
    const T* k = keys.data<T>() + cached;
    const T* v = values.data<T>() + cached;
    for (std::int64_t j = 0; j < length; ++j) p[j] = dot(q.data<T>() + task * d, k + j * stride, d);
    const float sum = exponentials(p, length, scale, scale * row_max(p, length), p);
    std::fill_n(accumulator, d, 0.0F);
    for (std::int64_t j = 0; j < length; ++j)
      for (std::int64_t c = 0; c < d; ++c) accumulator[c] += p[j] * static_cast<float>(v[j * stride + c]);
    T* o = out.data<T>() + task * d;
    for (std::int64_t c = 0; c < d; ++c) o[c] = T(accumulator[c] / sum);
  });
}

}  // namespace

void attention_forward(const Context& ctx, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse) {
  with_float(qkv.dtype(), [&]<typename T>(T) { forward<T>(ctx, shape, qkv, out, lse); });
}

void attention_decode(const Context& ctx, const AttentionShape& shape, std::int64_t length, const Tensor& q,
                      const Tensor& keys, const Tensor& values, const Tensor& out) {
  with_float(q.dtype(), [&]<typename T>(T) { decode<T>(ctx, shape, length, q, keys, values, out); });
}

}  // namespace xmoe::cpu
