#include "comm/reduction.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/parallel.h"

namespace xmoe {

namespace {

// Elements reduced at once: their accumulators stay in the first-level cache while the ranks' parts stream
// by.
constexpr std::int64_t kBlock = 1024;
// Fewest elements worth a thread of their own: some ten microseconds of work.
constexpr std::int64_t kGrain = 16 * kBlock;

template <typename A>
A combine(ReduceOp op, A so_far, A next) {
  switch (op) {
    case ReduceOp::sum:
      return so_far + next;
    case ReduceOp::max:
      return next > so_far || next != next ? next : so_far;
    case ReduceOp::min:
      return next < so_far || next != next ? next : so_far;
  }
  return so_far;
}

template <typename T, typename A>
void reduce_block(ReduceOp op, const T* parts, int ranks, std::int64_t n, std::int64_t begin,
                  std::int64_t end, T* out) {
  std::array<A, kBlock> sum;  // filled from rank 0
  const std::int64_t count = end - begin;
  for (std::int64_t i = 0; i < count; ++i)
    sum[static_cast<std::size_t>(i)] = static_cast<A>(parts[begin + i]);
  const auto add = [&](auto constant) {
    for (int r = 1; r < ranks; ++r) {
      const T* part = parts + r * n + begin;
      for (std::int64_t i = 0; i < count; ++i) {
        A& s = sum[static_cast<std::size_t>(i)];
        s = combine(decltype(constant)::value, s, static_cast<A>(part[i]));
      }
    }
  };
  switch (op) {
    case ReduceOp::sum:
      add(std::integral_constant<ReduceOp, ReduceOp::sum>{});
      break;
    case ReduceOp::max:
      add(std::integral_constant<ReduceOp, ReduceOp::max>{});
      break;
    case ReduceOp::min:
      add(std::integral_constant<ReduceOp, ReduceOp::min>{});
      break;
  }
  for (std::int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<T>(sum[static_cast<std::size_t>(i)]);
}

template <typename T, typename A>
void reduce(ReduceOp op, const void* parts, int ranks, std::int64_t n, void* out) {
  parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; block += kBlock) {
      reduce_block<T, A>(op, static_cast<const T*>(parts), ranks, n, block, std::min(block + kBlock, end),
                         static_cast<T*>(out));
    }
  });
}

}  // namespace

void reduce_parts(ReduceOp op, DType dtype, const void* parts, int ranks, std::int64_t n, void* out) {
  switch (dtype) {
    case DType::f32:
      return reduce<float, float>(op, parts, ranks, n, out);
    case DType::bf16:
      return reduce<bf16, float>(op, parts, ranks, n, out);
    case DType::f16:
      return reduce<f16, float>(op, parts, ranks, n, out);
    case DType::i64:
      return reduce<std::int64_t, std::int64_t>(op, parts, ranks, n, out);
    default:
      XMOE_CHECK(false, "no reduction of {}", name_of(dtype));
  }
}

}  // namespace xmoe
