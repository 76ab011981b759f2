#include "bench/support/bench.h"
#include "ops/adamw/adamw.h"

namespace xmoe {

XMOE_BENCHMARK(adamw) {
  const std::int64_t count = bench.tokens() * 2048;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Arena arena(bench.device(), MemoryTag::optimizer);
    const Tensor grad = arena.zeros(DType::f32, {count});
    const Tensor master = arena.zeros(DType::f32, {count});
    const Tensor m = arena.zeros(DType::f32, {count});
    const Tensor v = arena.zeros(DType::f32, {count});
    const Tensor value = dtype == DType::f32 ? master : arena.zeros(dtype, {count});
    AdamWOptions options;
    options.learning_rate = 1e-3;
    // Four arrays read, three written, and the value where it is apart.
    const double bytes = static_cast<double>(count) * (28.0 + (dtype == DType::f32 ? 0.0 : 2.0));
    bench.memory_bound("adamw", to_string(grad.shape()), dtype, bytes,
                       [&] { adamw({arena}, options, grad, master, m, v, value); });
  }
}

}  // namespace xmoe
