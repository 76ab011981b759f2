#include "bench/support/bench.h"
#include "ops/gather/gather_case.h"

namespace xmoe {

XMOE_BENCHMARK(gather) {
  constexpr std::int64_t kTokens = 4096;
  constexpr std::int64_t kSlots = 6;
  for (const std::int64_t width : {512, 2048}) {
    bench.op(gather_case(kTokens, kTokens * kSlots, width));
    bench.op(combine_case(kTokens, kSlots, kTokens * kSlots, width));
  }
}

}  // namespace xmoe
