#include "bench/support/bench.h"
#include "ops/embedding/embedding_case.h"

namespace xmoe {

XMOE_BENCHMARK(embedding) { bench.op(embedding_case(bench.tokens(), 32000, 1024)); }

}  // namespace xmoe
