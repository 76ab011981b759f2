#include "bench/support/bench.h"
#include "ops/gather/gather_case.h"

namespace xmoe {

XMOE_BENCHMARK(gather) {
  const std::int64_t tokens = bench.tokens();
  constexpr std::int64_t kSlots = 6;
  for (const std::int64_t width : {512, 2048}) {
    bench.op(gather_case(tokens, tokens * kSlots, width));
    bench.op(combine_case(tokens, kSlots, tokens * kSlots, width));
  }
}

}  // namespace xmoe
