// Bound by bytes: per parameter 4 of the gradient read (2 of bf16), and value, remainder and moments read and
// written (28 with f32 moments, 20 with both in bf16). A thread takes 4 elements in a row, 16 bytes of each
// f32 array and 8 of each 16-bit one, or one where memory is not aligned for that. No shared memory.
#include "ops/adamw/adamw_gpu.h"

#include <cmath>

#include "base/rng.h"
#include "base/split_float.h"
#include "device/gpu.h"
#include "ops/adamw/adamw_factors.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr int kElements = 4;

// The 16 bits of element i, and their place in the words that hold them.
template <int N, typename T>
__device__ std::uint16_t half_of(const Raw<T, N>& raw, int i) {
  return static_cast<std::uint16_t>(raw.words[i / 2] >> (i % 2 * 16));
}
template <int N, typename T>
__device__ void put_half(Raw<T, N>& raw, int i, unsigned half) {
  raw.words[i / 2] |= half << (i % 2 * 16);
}

// `shift`: which half of the random bits of an element is this moment's.
template <int N, typename M>
__device__ void store_moment(const float (&moment)[N], const std::uint32_t (&random)[N], int shift, M* to) {
  if constexpr (std::is_same_v<M, float>) {
    store<N>(moment, to);
  } else {
    Raw<M, N> raw;
#pragma unroll
    for (int i = 0; i < N; ++i) put_half(raw, i, round_by_chance(moment[i], (random[i] >> shift) & 0xffffU));
    store_raw(raw, to);
  }
}

template <int N, typename G, typename T, typename M, typename V>
__device__ void update(const AdamWFactors& f, const G* grad, T* value, std::int16_t* remainder, M* m, V* v,
                       std::int64_t at) {
  float g[N];
  float w[N];
  float first[N];
  float second[N];
  load<N>(grad + at, g);
  load<N>(m + at, first);
  load<N>(v + at, second);
  if constexpr (std::is_same_v<T, float>) {
    load<N>(value + at, w);
  } else {
    const auto high = load_raw<N>(value + at);
    const auto low = load_raw<N>(remainder + at);
#pragma unroll
    for (int i = 0; i < N; ++i)
      w[i] = SplitFloat<T>::join(half_of<N>(high, i), static_cast<std::int16_t>(half_of<N>(low, i)));
  }
  std::uint32_t random[N] = {};
#pragma unroll
  for (int i = 0; i < N; ++i) {
    // Roundings are spelt out: left to the compiler, packs and single elements would be contracted
    // differently, and an element's bits would depend on where a part begins.
    const float scaled = __fmul_rn(f.grad_scale, g[i]);
    first[i] = __fmaf_rn(f.beta1, first[i], __fmul_rn(f.one_minus_beta1, scaled));
    second[i] = __fmaf_rn(f.beta2, second[i], __fmul_rn(f.one_minus_beta2, __fmul_rn(scaled, scaled)));
    // Root and quotient err by two units of the last place each; exact ones take many steps, which hold the
    // kernel up when a GPU at its power limit lowers its clock. 0, infinity and NaN are their own roots.
    const float variance = __fmul_rn(second[i], f.v_correction);
    const float root =
        0.0F < variance && variance < INFINITY ? __fmul_rn(variance, rsqrtf(variance)) : variance;
    const float direction = __fdividef(__fmul_rn(first[i], f.m_correction), __fadd_rn(root, f.epsilon));
    w[i] = __fmaf_rn(-f.learning_rate, __fmaf_rn(f.weight_decay, w[i], direction), w[i]);
    if constexpr (std::is_same_v<M, bf16> || std::is_same_v<V, bf16>)
      random[i] = cheap_bits(f.rounding_key, f.first_element + static_cast<std::uint64_t>(at + i));
  }
  store_moment<N>(first, random, 0, m + at);
  store_moment<N>(second, random, 16, v + at);
  if constexpr (std::is_same_v<T, float>) {
    store<N>(w, value + at);
  } else {
    Raw<T, N> high;
    Raw<std::int16_t, N> low;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      put_half(high, i, SplitFloat<T>::value(w[i]));
      put_half(low, i, static_cast<std::uint16_t>(SplitFloat<T>::remainder(w[i])));
    }
    store_raw(high, value + at);
    store_raw(low, remainder + at);
  }
}

template <int N, typename G, typename T, typename M, typename V>
__global__ void adamw_kernel(AdamWFactors f, const G* grad, T* value, std::int16_t* remainder, M* m, V* v,
                             std::int64_t count) {
  const std::int64_t thread = thread_index();
  const std::int64_t packs = count / N;
  if (thread < packs) update<N>(f, grad, value, remainder, m, v, thread * N);
  if (thread < count - packs * N) update<1>(f, grad, value, remainder, m, v, packs * N + thread);
}

}  // namespace

void adamw(const Context& ctx, const AdamWOptions& options, const Tensor& grad, const Tensor& value,
           const Tensor& remainder, const Tensor& m, const Tensor& v) {
  check_device(ctx.device(), {grad, value, remainder, m, v});
  const std::int64_t count = grad.numel();
  if (count == 0) return;
  const AdamWFactors f = adamw_factors(options);
  auto* low = remainder.defined() ? remainder.data<std::int16_t>() : nullptr;
  const auto run = [&]<int N, typename G, typename T, typename M, typename V>() {
    launch(adamw_kernel<N, G, T, M, V>, grid_of(ceil_div(count, N) + N, kBlockThreads), Block(kBlockThreads),
           0, stream(ctx.device()), f, grad.data<G>(), value.data<T>(), low, m.data<M>(), v.data<V>(), count);
  };
  const bool packed = aligned({grad.raw(), value.raw(), low, m.raw(), v.raw()});
  with_float(value.dtype(), [&]<typename T>(T) {
    with_float_or<bf16>(m.dtype(), [&]<typename M>(M) {
      with_float_or<bf16>(v.dtype(), [&]<typename V>(V) {
        const auto of_gradient = [&]<typename G>(G) {
          if (packed)
            run.template operator()<kElements, G, T, M, V>();
          else
            run.template operator()<1, G, T, M, V>();
        };
        if constexpr (std::is_same_v<T, bf16>)
          with_float_or<bf16>(grad.dtype(), of_gradient);
        else
          of_gradient(0.0F);
      });
    });
  });
}

}  // namespace xmoe::gpu
