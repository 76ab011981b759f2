#include "ops/rope/rope_cpu.h"

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "ops/cpu_rows.h"

namespace xmoe::cpu {

namespace {

// Elements that a thread must have to be worth waking: some 10 microseconds of work.
constexpr std::int64_t kRopeGrain = std::int64_t{1} << 14;

// sign: +1 forward, -1 backward.
template <typename T>
void rotate(T* head, const float* angles, float sign, std::int64_t half) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const float cosine = angles[i];
    const float sine = sign * angles[half + i];
    const auto a = static_cast<float>(head[i]);
    const auto b = static_cast<float>(head[half + i]);
    round_to(a * cosine - b * sine, head[i]);
    round_to(b * cosine + a * sine, head[half + i]);
  }
}

}  // namespace

void rope_table(double base, const Tensor& table) {
  const std::int64_t half = table.dim(1) / 2;
  auto* to = table.data<float>();
  for (std::int64_t s = 0; s < table.dim(0); ++s)
    for (std::int64_t i = 0; i < half; ++i) {
      const double frequency = std::pow(base, -static_cast<double>(i) / static_cast<double>(half));
      const double angle = static_cast<double>(s) * frequency;
      to[s * 2 * half + i] = static_cast<float>(std::cos(angle));
      to[s * 2 * half + half + i] = static_cast<float>(std::sin(angle));
    }
}

void rope(RopeDirection direction, std::int64_t rotated_heads, const Tensor& x, const Tensor& table) {
  const std::int64_t heads = x.dim(1);
  const std::int64_t width = x.dim(2);
  const std::int64_t positions = table.dim(0);
  const auto* angles = table.data<float>();
  const float sign = direction == RopeDirection::forward ? 1.0F : -1.0F;
  const std::int64_t grain =
      std::max<std::int64_t>(1, kRopeGrain / std::max<std::int64_t>(1, rotated_heads * width));
  with_float(x.dtype(), [&]<typename T>(T) {
    auto* data = x.data<T>();
    parallel_for(x.dim(0), grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        for (std::int64_t h = 0; h < rotated_heads; ++h)
          rotate(data + (t * heads + h) * width, angles + t % positions * width, sign, width / 2);
    });
  });
}

}  // namespace xmoe::cpu
