// Time of building a PFT: of one that keeps all, and of one with a capacity factor of 1.25.
#include "bench/support/bench.h"
#include "moe/dispatch/synthetic.h"
#include "moe/pft.h"

namespace xmoe {

XMOE_BENCHMARK(pft) {
  struct Size {
    std::int64_t tokens, top_k, experts;
  };
  for (const auto& [tokens, top_k, experts] :
       {Size{16384, 6, 64}, Size{16384, 8, 128}, Size{32768, 8, 256}, Size{131072, 8, 256}}) {
    Arena arena(bench.device(), MemoryTag::saved);
    Arena workspace(bench.device(), MemoryTag::workspace);
    const SyntheticRouting routing = synthetic_routing(arena, experts, top_k, tokens, /*zipf=*/0.0, 0);
    const std::string shape = fmt::format("T {} k {} E {}", tokens, top_k, experts);
    const auto add = [&](const char* name, std::optional<std::int64_t> capacity) {
      const double seconds = Bench::seconds(
          [&] {
            const ArenaScope scope(workspace);
            build_pft({workspace}, workspace, experts, routing.top_experts, routing.top_weights, capacity);
          },
          bench.device());
      bench.add({name, shape, "-", 1e6 * seconds, "us", 0.0});
    };
    add("pft", std::nullopt);
    add("pft.capacity", expert_capacity(tokens, top_k, experts, 1.25, 4));
  }
}

}  // namespace xmoe
