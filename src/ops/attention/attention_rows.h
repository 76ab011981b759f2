// What the forward and the backward pass of the CPU attention share: addresses of heads in strided rows,
// per-thread scratch memory, and the vectorised pieces of softmax on one row of a tile of scores.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "device/context.h"
#include "ops/attention/attention.h"
#include "ops/cpu_math.h"
#include "ops/cpu_rows.h"
#include "ops/gemm/gemm_tile.h"

namespace xmoe::cpu {

// Operands that the blocks of one (sequence, head) read, each with its stride between rows.
template <typename T>
struct HeadRows {
  T* data = nullptr;
  std::int64_t stride = 0;

  T* row(std::int64_t i) const { return data + i * stride; }
};

template <typename T>
struct QkvLayout {
  AttentionShape shape;
  T* qkv = nullptr;  // [T, qkv_width]

  HeadRows<T> q(std::int64_t b, std::int64_t head) const { return at(b, head); }
  HeadRows<T> k(std::int64_t b, std::int64_t kv_head) const { return at(b, shape.heads + kv_head); }
  HeadRows<T> v(std::int64_t b, std::int64_t kv_head) const {
    return at(b, shape.heads + shape.kv_heads + kv_head);
  }

 private:
  HeadRows<T> at(std::int64_t b, std::int64_t slot) const {
    return {qkv + b * shape.seq * shape.qkv_width() + slot * shape.head_dim, shape.qkv_width()};
  }
};

template <typename T>
HeadRows<T> output_rows(const AttentionShape& shape, T* out, std::int64_t b, std::int64_t head) {
  const std::int64_t width = shape.heads * shape.head_dim;
  return {out + b * shape.seq * width + head * shape.head_dim, width};
}

inline float score_scale(const AttentionShape& shape) {
  return 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
}

// C (+)= op(A) op(B) with operands of type T and an output of type C.
template <typename T, typename C>
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda, Transpose ta,
              const T* b, std::int64_t ldb, Transpose tb, C* c, std::int64_t ldc, bool accumulate) {
  gemm_tile({.m = m,
             .n = n,
             .k = k,
             .a = a,
             .lda = lda,
             .b = b,
             .ldb = ldb,
             .c = c,
             .ldc = ldc,
             .input = dtype_of<std::remove_const_t<T>>::value,
             .output = dtype_of<C>::value,
             .options = {.a = ta, .b = tb, .accumulate = accumulate}});
}

// Scratch arrays of one thread, carved from one allocation made before the threads start.
class ThreadScratch {
 public:
  explicit ThreadScratch(std::byte* data) : next_(data) {}

  template <typename T>
  T* take(std::int64_t count) {
    auto* taken = reinterpret_cast<T*>(next_);
    next_ += size<T>(count);
    return taken;
  }
  // Whole cache lines, so that arrays start on one.
  template <typename T>
  static std::size_t size(std::int64_t count) {
    constexpr std::size_t kLine = 64;
    return (static_cast<std::size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
  }

 private:
  std::byte* next_;
};

// p_j = exp(scale * x_j - shift); returns their sum in f32, taken before rounding to P.
template <typename P>
float exponentials(const float* x, std::int64_t n, float scale, float shift, P* p) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < n; ++j) {
    const float e = fast_exp(x[j] * scale - shift);
    sum += e;
    round_to(e, p[j]);
  }
  return sum;
}

}  // namespace xmoe::cpu
