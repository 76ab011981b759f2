#include "bench/support/bench.h"
#include "ops/norm/norm_case.h"

namespace xmoe {

XMOE_BENCHMARK(norm) {
  bench.op(norm_case(NormKind::rms_norm, 4096, 1024));
  bench.op(norm_case(NormKind::layer_norm, 4096, 1024));
}

}  // namespace xmoe
