// Bound by arithmetic: a core computes 20 to 30 million normal numbers a second.
#include "model/initial_values/initial_values_cpu.h"

#include <algorithm>

#include "base/parallel.h"

namespace xmoe::cpu {

void fill_initial_values(const InitialValues& initial, const Rng& rng, const ShardIndex& part,
                         std::int64_t first, const Tensor& out) {
  with_float(out.dtype(), [&]<typename T>(T) {
    T* to = out.data<T>();
    constexpr std::int64_t kGrain = 4096;  // elements worth a thread
    parallel_for(out.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      if (initial.deviation == 0.0) {
        std::fill(to + begin, to + end, static_cast<T>(initial.constant));
        return;
      }
      for (std::int64_t i = begin; i < end;) {
        const ShardIndex::Run run = part.run_at(first + i);
        const std::int64_t run_end = std::min(end, i + run.count);
        for (auto index = static_cast<std::uint64_t>(run.index); i < run_end; ++i, ++index)
          to[i] = static_cast<T>(static_cast<float>(initial.deviation * rng.normal(index)));
      }
    });
  });
}

}  // namespace xmoe::cpu
