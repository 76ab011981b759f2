#include "bench/support/bench.h"
#include "ops/adamw/adamw.h"

namespace xmoe {

XMOE_BENCHMARK(adamw) {
  const std::int64_t count = bench.tokens() * 2048;
  const auto measure = [&](DType dtype, DType moments, DType gradients = DType::f32) {
    Arena arena(bench.device(), MemoryTag::optimizer);
    const Tensor grad = arena.zeros(gradients, {count});
    const Tensor value = arena.zeros(dtype, {count});
    const Tensor remainder = dtype == DType::f32 ? Tensor{} : arena.zeros(DType::i16, {count});
    const Tensor m = arena.zeros(moments, {count});
    const Tensor v = arena.zeros(moments, {count});
    AdamWOptions options;
    options.learning_rate = 1e-3;
    // The gradient is read; value with remainder (4 bytes, whatever the dtype) and moments are read and
    // written.
    const double bytes =
        static_cast<double>(count) *
        (static_cast<double>(size_of(gradients)) + 2.0 * (4.0 + 2.0 * static_cast<double>(size_of(moments))));
    const char* const of_gradient = gradients == DType::f32 ? "" : ", gradient too";
    bench.memory_bound(fmt::format("adamw, moments in {}{}", name_of(moments), of_gradient),
                       to_string(grad.shape()), dtype, bytes,
                       [&] { adamw({arena}, options, grad, value, remainder, m, v); });
  };
  measure(DType::f32, DType::f32);
  measure(DType::bf16, DType::f32);
  measure(DType::bf16, DType::bf16);
  measure(DType::bf16, DType::bf16, DType::bf16);
}

}  // namespace xmoe
