#include "bench/support/bench.h"
#include "ops/norm/norm_case.h"

namespace xmoe {

XMOE_BENCHMARK(norm) {
  for (const std::int64_t width : {1024, 2048}) {
    bench.op(norm_case(NormKind::rms_norm, bench.tokens(), width));
    bench.op(norm_case(NormKind::layer_norm, bench.tokens(), width));
  }
}

}  // namespace xmoe
