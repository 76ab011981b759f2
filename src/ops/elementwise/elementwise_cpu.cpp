// All of these are bound by memory: every element is read and written once, converted in registers.
#include "ops/elementwise/elementwise_cpu.h"

#include <cstring>

#include "base/parallel.h"
#include "ops/cpu_rows.h"

namespace xmoe::cpu {

namespace {

// Elements that a thread must have to be worth waking: some 10 microseconds of work.
constexpr std::int64_t kElementwiseGrain = std::int64_t{1} << 14;

template <typename A, typename B, typename Out>
void add_range(const A* a, const B* b, Out* out, std::int64_t begin, std::int64_t end) {
  // out may be a or b, element by element.
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i)
    round_to(static_cast<float>(a[i]) + static_cast<float>(b[i]), out[i]);
}

template <typename From, typename To>
void convert_range(const From* from, To* to, std::int64_t begin, std::int64_t end) {
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) round_to(static_cast<float>(from[i]), to[i]);
}

}  // namespace

void add(const Tensor& a, const Tensor& b, const Tensor& out) {
  with_half({a.dtype(), b.dtype(), out.dtype()}, [&]<typename Half>(Half) {
    with_float_or<Half>(a.dtype(), [&]<typename A>(A) {
      with_float_or<Half>(b.dtype(), [&]<typename B>(B) {
        with_float_or<Half>(out.dtype(), [&]<typename Out>(Out) {
          parallel_for(a.numel(), kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
            add_range(a.data<A>(), b.data<B>(), out.data<Out>(), begin, end);
          });
        });
      });
    });
  });
}

void convert(const Tensor& from, const Tensor& to) {
  if (from.dtype() == to.dtype()) return copy(from, to);
  with_half({from.dtype(), to.dtype()}, [&]<typename Half>(Half) {
    with_float_or<Half>(from.dtype(), [&]<typename From>(From) {
      with_float_or<Half>(to.dtype(), [&]<typename To>(To) {
        parallel_for(from.numel(), kElementwiseGrain, [&](std::int64_t begin, std::int64_t end) {
          convert_range(from.data<From>(), to.data<To>(), begin, end);
        });
      });
    });
  });
}

void fill_zero(const Tensor& tensor) {
  auto* data = static_cast<std::byte*>(tensor.raw());
  parallel_for(static_cast<std::int64_t>(tensor.bytes()), kElementwiseGrain,
               [&](std::int64_t begin, std::int64_t end) {
                 std::memset(data + begin, 0, static_cast<std::size_t>(end - begin));
               });
}

void copy(const Tensor& from, const Tensor& to) {
  if (from.raw() == to.raw()) return;
  const auto* source = static_cast<const std::byte*>(from.raw());
  auto* target = static_cast<std::byte*>(to.raw());
  parallel_for(static_cast<std::int64_t>(from.bytes()), kElementwiseGrain,
               [&](std::int64_t begin, std::int64_t end) {
                 std::memcpy(target + begin, source + begin, static_cast<std::size_t>(end - begin));
               });
}

}  // namespace xmoe::cpu
