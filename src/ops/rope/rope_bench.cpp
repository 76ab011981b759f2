#include "bench/support/bench.h"
#include "ops/rope/rope.h"

namespace xmoe {

XMOE_BENCHMARK(rope) {
  const std::int64_t rows = bench.tokens();
  constexpr std::int64_t kHeads = 24;    // queries, keys and values of a row of 8 heads each
  constexpr std::int64_t kRotated = 16;  // queries and keys
  constexpr std::int64_t kWidth = 128;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Arena arena(bench.device(), MemoryTag::workspace);
    const Tensor table = arena.tensor(DType::f32, {2048, kWidth});
    rope_table(10000.0, table);
    const Tensor x = arena.zeros(dtype, {rows, kHeads, kWidth});
    const double bytes =
        2.0 * static_cast<double>(rows * kRotated * kWidth) * static_cast<double>(size_of(dtype));
    bench.memory_bound("rope", to_string(x.shape()), dtype, bytes,
                       [&] { rope({arena}, RopeDirection::forward, kRotated, x, table); });
  }
}

}  // namespace xmoe
