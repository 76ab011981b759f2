// Routing against a copy of the same bytes: logits and choices. It computes an exponential and ranks each
// logit, so the share says how far from free it is.
#include "bench/support/bench.h"
#include "ops/routing/routing_case.h"

namespace xmoe {
namespace {

void run_case(Bench& bench, const std::string& name, const RoutingOptions& options, std::int64_t tokens,
              std::int64_t experts, bool has_bias) {
  const OpCase op = routing_case(options, tokens, experts, has_bias);
  OpRun run(op, DType::f32, bench.device());
  const std::string shape = fmt::format("T {} E {} k {}", tokens, experts, options.top_k);
  const auto logits = static_cast<double>(run.in[0].bytes());
  const auto choices = static_cast<double>(2 * run.out[0].bytes());
  run.forward();
  bench.memory_bound(name + ".forward", shape, DType::f32, logits + choices, [&] { run.forward_again(); });
  bench.memory_bound(name + ".backward", shape, DType::f32, 2.0 * logits + choices,
                     [&] { run.backward_again(); });
}

XMOE_BENCHMARK(routing) {
  run_case(bench, "routing softmax", {.top_k = 4, .pre_softmax = true}, 16384, 32, false);
  run_case(bench, "routing softmax", {.top_k = 6, .pre_softmax = true}, 16384, 64, false);
  run_case(bench, "routing softmax", {.top_k = 32, .pre_softmax = true}, 16384, 256, false);
  run_case(bench, "routing sigmoid grouped",
           {.top_k = 8,
            .score_function = ScoreFunction::sigmoid,
            .normalize_topk = true,
            .groups = 8,
            .topk_groups = 4},
           16384, 256, true);
}

}  // namespace
}  // namespace xmoe
