#include "bench/support/bench.h"
#include "ops/elementwise/elementwise_case.h"

namespace xmoe {

XMOE_BENCHMARK(elementwise) {
  const Shape shape = {bench.tokens(), 1024};
  bench.op(add_case(shape));
  bench.op(convert_case(shape, ElementKind::f32, ElementKind::compute));
}

}  // namespace xmoe
