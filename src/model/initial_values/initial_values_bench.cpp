#include "bench/support/bench.h"
#include "model/initial_values/initial_values.h"

namespace xmoe {

// A rank's experts, cut along all axes but the last, as under TED.
XMOE_BENCHMARK(initial_values) {
  const Shape global = {64, 2816, bench.tokens() / 16};
  Sharding sharding;
  sharding.axes[0] = {{8, 8}};
  sharding.axes[1] = {{0, 704}, {1408, 704}};
  const ShardIndex part(global, sharding);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Arena arena(bench.device(), MemoryTag::parameters);
    Arena workspace(bench.device(), MemoryTag::workspace);
    const Tensor out = arena.tensor(dtype, {part.numel()});
    const double seconds = Bench::seconds(
        [&] { fill_initial_values({workspace}, {.deviation = 0.02}, Rng(1, "w"), part, 0, out); },
        bench.device());
    // No bound: the vendor has no figure for logarithms and cosines.
    bench.add({.name = "initial_values",
               .shape = to_string(sharding.local_shape(global)),
               .dtype = std::string(name_of(dtype)),
               .value = static_cast<double>(part.numel()) / seconds * 1e-9,
               .unit = "Gelem/s"});
  }
}

}  // namespace xmoe
