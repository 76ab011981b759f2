#include "bench/support/bench.h"
#include "ops/reduce/reduce.h"

namespace xmoe {

XMOE_BENCHMARK(reduce) {
  Arena arena(bench.device(), MemoryTag::workspace);
  const Tensor x = arena.zeros(DType::f32, {bench.tokens() * 4096});
  // The bound counts a copy's reads and writes alike; here there are only reads.
  bench.memory_bound("reduce.sum_of_squares", to_string(x.shape()), DType::f32,
                     static_cast<double>(x.bytes()), [&] { sum_of_squares({arena}, x); });
}

}  // namespace xmoe
