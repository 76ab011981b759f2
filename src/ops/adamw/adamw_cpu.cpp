// One pass over memory. Per parameter 4 bytes of the gradient are read (2 of bf16), and value, remainder and
// moments read and written: 28 bytes with f32 moments (beside an f32 value or one of 16 bits with its
// remainder), 20 with both in bf16.
#include "ops/adamw/adamw_cpu.h"

#include <bit>
#include <cmath>

#include "base/parallel.h"
#include "base/rng.h"
#include "base/split_float.h"
#include "ops/adamw/adamw_factors.h"

namespace xmoe::cpu {

namespace {

// Elements that a thread must have to be worth waking: some 10 microseconds of work.
constexpr std::int64_t kGrain = std::int64_t{1} << 13;

float number(float stored) { return stored; }
float number(bf16 stored) { return static_cast<float>(stored); }
void round_moment(float moment, std::uint32_t, float& to) { to = moment; }
void round_moment(float moment, std::uint32_t random, bf16& to) { to.bits = round_by_chance(moment, random); }

template <typename G, typename T, typename M, typename V>
void update(const AdamWFactors& f, const G* grad, T* value, std::int16_t* remainder, M* m, V* v,
            std::int64_t begin, std::int64_t end) {
  constexpr bool kRounds = std::is_same_v<M, bf16> || std::is_same_v<V, bf16>;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    const float g = f.grad_scale * number(grad[i]);
    const float first = f.beta1 * number(m[i]) + f.one_minus_beta1 * g;
    const float second = f.beta2 * number(v[i]) + f.one_minus_beta2 * (g * g);
    float w = 0.0F;
    if constexpr (std::is_same_v<T, float>)
      w = value[i];
    else
      w = SplitFloat<T>::join(value[i].bits, remainder[i]);
    const float direction = first * f.m_correction / (std::sqrt(second * f.v_correction) + f.epsilon);
    const float updated = w - f.learning_rate * (direction + f.weight_decay * w);
    const std::uint32_t random =
        kRounds ? cheap_bits(f.rounding_key, f.first_element + static_cast<std::uint64_t>(i)) : 0U;
    round_moment(first, random & 0xffffU, m[i]);
    round_moment(second, random >> 16, v[i]);
    if constexpr (std::is_same_v<T, float>) {
      value[i] = updated;
    } else {
      value[i].bits = SplitFloat<T>::value(updated);
      remainder[i] = SplitFloat<T>::remainder(updated);
    }
  }
}

}  // namespace

void adamw(const AdamWOptions& options, const Tensor& grad, const Tensor& value, const Tensor& remainder,
           const Tensor& m, const Tensor& v) {
  const AdamWFactors f = adamw_factors(options);
  auto* low = remainder.defined() ? remainder.data<std::int16_t>() : nullptr;
  with_float(value.dtype(), [&]<typename T>(T) {
    with_float_or<bf16>(m.dtype(), [&]<typename M>(M) {
      with_float_or<bf16>(v.dtype(), [&]<typename V>(V) {
        parallel_for(grad.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
          const auto run = [&]<typename G>(G) {
            update(f, grad.data<G>(), value.data<T>(), low, m.data<M>(), v.data<V>(), begin, end);
          };
          if constexpr (std::is_same_v<T, bf16>)
            with_float_or<bf16>(grad.dtype(), run);
          else
            run(0.0F);
        });
      });
    });
  });
}

}  // namespace xmoe::cpu
