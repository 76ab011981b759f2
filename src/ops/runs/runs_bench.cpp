#include <vector>

#include "bench/support/bench.h"
#include "ops/runs/runs.h"

namespace xmoe {

XMOE_BENCHMARK(runs) {
  constexpr std::int64_t kRuns = 256;  // experts of all ranks
  const std::int64_t each = bench.tokens() * 8 / kRuns;
  Arena arena(bench.device(), MemoryTag::workspace);
  Arena workspace(bench.device(), MemoryTag::workspace);
  const Tensor out = arena.tensor(DType::i32, {kRuns * each});
  const std::vector<Run> runs(kRuns, Run{7, each});
  bench.memory_bound("fill_runs", to_string(out.shape()), DType::i32, static_cast<double>(out.bytes()),
                     [&] { fill_runs({workspace}, runs, out); });
}

}  // namespace xmoe
