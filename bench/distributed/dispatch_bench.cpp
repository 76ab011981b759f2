// The dispatchers beside each other on several ranks. Run under mpirun.
#include <CLI/CLI.hpp>

#include "base/log.h"
#include "bench/distributed/options.h"
#include "comm/topology.h"
#include "moe/dispatch/node_map.h"

namespace xmoe::dispatch_bench {

std::string describe(const Options& options, const Mesh& mesh) {
  const NodeMap nodes(mesh.ep().nodes(), mesh.ep().size());
  const std::string ranks = nodes.nodes() == 1
                                ? fmt::format("{} ranks", nodes.ranks())
                                : fmt::format("{} ranks on {} nodes", nodes.ranks(), nodes.nodes());
  std::string text = fmt::format("{} x T {} H {}", ranks, options.tokens, options.hidden);
  if (!options.dispatch_only) text += fmt::format(" I {}", options.ffn);
  text += fmt::format(" E {} k {}", options.experts, options.top_k);
  if (options.zipf > 0.0) text += fmt::format(" zipf {:g}", options.zipf);
  if (options.chunks > 1) text += fmt::format(", {} chunks", options.chunks);
  return text;
}

namespace {

constexpr const char* kDescription =
    "The dispatchers beside each other: padded (capacity factor 1.25), flat, rbd. Start it with mpirun -n "
    "RANKS; "
    "all ranks form one expert-parallel group.\n"
    "Without --dispatch-only: an MoE layer forward and backward (rows dispatch.NAME.step, .sent, .kept).\n"
    "With it: rows go out and back without experts between. Rows of the table and of --json, NAME one of "
    "padded, "
    "flat, rbd:\n"
    "  dispatch.NAME.forward   ms of plan, dispatch and combine: the slowest rank's, median; bound: the "
    "fastest "
    "dispatcher\n"
    "  dispatch.NAME.step      the same with backward: dispatch, combine, gradients of weights\n"
    "  dispatch.NAME.between   MB that all ranks send to other nodes in a forward, by the program's count; "
    "bound: "
    "distinct (token, remote node) pairs x bytes of a row, out and back\n"
    "  dispatch.NAME.metadata  MB of the above that are not rows: counts, experts, weights\n"
    "  dispatch.NAME.within    MB that all ranks send within their nodes\n"
    "  dispatch.NAME.wire      MB that the interfaces of the nodes sent, where XMOE_LINK_INTERFACE names one "
    "(tools/cluster.sh); bound: .between\n"
    "  dispatch.auto.forward   the one that --moe-dispatcher auto takes; bound: the faster of flat and rbd\n"
    "  dispatch.redundancy     % of assignments whose node gets the row anyway; bound: expected if uniform\n"
    "  dispatch.pilots         most / mean of the rows that cross to the ranks of a node; bound: pilots at "
    "random";

void add_flags(CLI::App& app, Options& options, std::string& dtype) {
  app.add_option("--tokens", options.tokens, "Tokens of a rank")->check(CLI::PositiveNumber);
  app.add_option("--hidden", options.hidden, "Hidden size")->check(CLI::PositiveNumber);
  app.add_option("--ffn", options.ffn, "FFN size of an expert")->check(CLI::PositiveNumber);
  app.add_option("--experts", options.experts, "Experts, over all ranks")->check(CLI::PositiveNumber);
  app.add_option("--topk", options.top_k, "Experts of a token")->check(CLI::PositiveNumber);
  app.add_option("--dtype", dtype, "f32, bf16 or both")->check(CLI::IsMember({"f32", "bf16", "both"}));
  app.add_option("--zipf", options.zipf,
                 "With --dispatch-only: popularity of experts falls as 1 / place^S; 0: uniform")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--chunks", options.chunks, "Chunks of tokens that a layer overlaps (flat and rbd)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--dispatch-only", options.dispatch_only, "Only rows out and back, without experts");
  app.add_option("--ranks-per-node", options.ranks_per_node,
                 "So many consecutive ranks count as a node; 0: those that share memory")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--repeats", options.repeats, "Timed repetitions")->check(CLI::PositiveNumber);
  app.add_option("--json", options.json, "Add the rows to this file, a list of objects");
}

void run(Communicator& world, const Options& options) {
  if (options.experts % world.size() != 0)
    fail_everywhere("--experts {} do not divide over {} ranks: start a number of ranks that divides it",
                    options.experts, world.size());
  if (options.top_k > options.experts)
    fail_everywhere("--topk {} of --experts {}: a token chooses an expert at most once", options.top_k,
                    options.experts);
  if (!options.dispatch_only && (options.zipf > 0.0))
    fail_everywhere("--zipf needs --dispatch-only: a layer's router chooses by itself");
  if (options.dispatch_only && options.chunks > 1)
    fail_everywhere("--chunks {} with --dispatch-only: there is no computation to overlap", options.chunks);
  detect_topology(world, options.ranks_per_node);
  const Mesh mesh(world, world.size());
  Bench bench;
  if (options.dispatch_only) {
    bench_exchanges(bench, options, mesh);
  } else {
    bench_layers(bench, options, mesh);
  }
  if (world.rank() == 0 && !options.json.empty()) append_json(bench.rows(), options.json);
}

}  // namespace

}  // namespace xmoe::dispatch_bench

int main(int argc, char** argv) {
  using namespace xmoe;
  CommunicationSession session(&argc, &argv);
  log::set_rank(session.world().rank(), session.world().size());
  CLI::App app(dispatch_bench::kDescription);
  dispatch_bench::Options options;
  std::string dtype = "both";
  dispatch_bench::add_flags(app, options, dtype);
  CLI11_PARSE(app, argc, argv);
  if (dtype != "both") options.dtypes = {dtype == "f32" ? DType::f32 : DType::bf16};
  try {
    dispatch_bench::run(session.world(), options);
  } catch (const std::exception& error) {
    log::write_error(error.what());
    session.abort(1);
  }
  return 0;
}
