// One parallel layout of a small Transformer: time of a training step, what a rank keeps of an MoE block for
// backward, what it keeps in all, and the optimizer's state. Run under mpirun, once per layout to compare;
// tools/bench_cluster.py does.
//
// Bounds: of the optimizer's state the masters and moments of all parameters that a rank holds, over the
// ranks that hold the same.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/rng.h"
#include "base/timer.h"
#include "bench/support/bench.h"
#include "comm/topology.h"
#include "train/optimizer.h"
#include "train/training_step.h"

namespace {

using namespace xmoe;

struct Options {
  ModelConfig model;
  ParallelLayout layout;
  DType dtype = DType::bf16;
  std::int64_t zero_stage = 0;
  std::int64_t micro_batch = 1;
  std::string dispatcher = "flat";
  std::string recompute = "none";
  std::string label = "layout";
  std::string json;
  int ranks_per_node = 0;
  int steps = 5;
};

void declare(CLI::App& app, Options& o) {
  ModelConfig& m = o.model;
  m.layers = 2;
  m.hidden = 256;
  m.heads = 8;
  m.seq_length = 256;
  m.vocabulary = 1024;
  m.moe.router.experts = 64;
  m.moe.router.top_k = 8;
  m.moe.router.pre_softmax = true;
  m.moe.ffn_hidden = 128;
  const auto positive = CLI::PositiveNumber;
  app.add_option("--layers", m.layers, "Layers, all with an MoE block")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--hidden", m.hidden, "Hidden size")->check(positive)->capture_default_str();
  app.add_option("--ffn", m.moe.ffn_hidden, "Hidden size of an expert")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--heads", m.heads, "Attention heads")->check(positive)->capture_default_str();
  app.add_option("--seq", m.seq_length, "Tokens of a sequence")->check(positive)->capture_default_str();
  app.add_option("--vocabulary", m.vocabulary, "Tokens of the vocabulary")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--experts", m.moe.router.experts, "Experts")->check(positive)->capture_default_str();
  app.add_option("--topk", m.moe.router.top_k, "Experts of a token")->check(positive)->capture_default_str();
  app.add_option("--chunks", m.moe.overlap_chunks, "Chunks of which one travels while another is computed")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--tp", o.layout.tensor, "Ranks of a tensor-parallel group")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--ep", o.layout.expert, "Ranks of an expert-parallel group")
      ->check(positive)
      ->capture_default_str();
  app.add_flag("--ted", o.layout.expert_tensor,
               "Experts cut over the tensor-parallel group (instead of SSMB)");
  app.add_option("--zero", o.zero_stage, "ZeRO stage")->check(CLI::Range(0, 1))->capture_default_str();
  app.add_option("--micro-batch", o.micro_batch, "Sequences of a tensor-parallel group")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--dispatcher", o.dispatcher)
      ->check(CLI::IsMember({"flat", "padded", "rbd"}))
      ->capture_default_str();
  app.add_option("--recompute", o.recompute, "What backward computes again; layer: all but a layer's input")
      ->check(CLI::IsMember({"none", "attention", "moe", "layer"}))
      ->capture_default_str();
  app.add_option("--ranks-per-node", o.ranks_per_node, "0: ranks that share memory")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--dtype", o.dtype, "Of parameters and activations: f32 or bf16")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, DType>{{"f32", DType::f32}, {"bf16", DType::bf16}}));
  app.add_option("--steps", o.steps, "Timed steps")->check(positive)->capture_default_str();
  app.add_option("--label", o.label, "What the rows' names begin with")->capture_default_str();
  app.add_option("--json", o.json, "Add the rows to this file, a list of objects");
}

void finish(Options& o) {
  if (o.dispatcher == "padded") {
    o.model.moe.dispatcher = DispatcherKind::padded;
    o.model.moe.capacity_factor = 1.25;
  } else if (o.dispatcher == "rbd") {
    o.model.moe.dispatcher = DispatcherKind::rbd;
  }
  o.model.recompute.attention = o.recompute == "attention";
  o.model.recompute.moe = o.recompute == "moe";
  o.model.recompute.layer = o.recompute == "layer";
  o.model.resolve();
}

std::string describe(const Options& o, const Communicator& world) {
  const ModelConfig& m = o.model;
  std::string text = fmt::format("{} ranks x {} of S {} L {} H {} I {} E {} k {}, tp {} ep {}", world.size(),
                                 o.micro_batch, m.seq_length, m.layers, m.hidden, m.moe.ffn_hidden,
                                 m.moe.router.experts, m.moe.router.top_k, o.layout.tensor, o.layout.expert);
  if (o.layout.expert_tensor) text += " TED";
  text += fmt::format(" {} zero {}", o.dispatcher, o.zero_stage);
  if (o.recompute != "none") text += " recompute " + o.recompute;
  if (m.moe.overlap_chunks > 1) text += fmt::format(" chunks {}", m.moe.overlap_chunks);
  return text;
}

// Random tokens, the same on the ranks of a tensor-parallel group.
void fill_tokens(const Options& o, const Mesh& mesh, std::uint64_t number, const Tensor& tokens,
                 const Tensor& targets) {
  const Rng rng(number, fmt::format("tokens{}", mesh.dp().rank()));
  for (std::int64_t i = 0; i < tokens.dim(0); ++i) {
    const auto token =
        rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(o.model.vocabulary));
    tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(token);
    targets.data<std::int32_t>()[i] = tokens.data<std::int32_t>()[i];
  }
}

// Two moments for each parameter, and a master where it is not f32 itself; 1 / replicas of them with ZeRO.
double least_optimizer_bytes(const ParameterSet& parameters, std::int64_t zero_stage) {
  double bytes = 0.0;
  for (const ParameterGroup& group : parameters.groups()) {
    const double values = group.dtype == DType::f32 ? 2.0 : 3.0;
    bytes +=
        4.0 * values * static_cast<double>(group.values.numel()) / (zero_stage == 0 ? 1 : group.replicas);
  }
  return bytes;
}

double saved_bytes(const Transformer& model) {
  double bytes = 0.0;
  for (const Arena* arena : model.arenas())
    if (arena->tag() == MemoryTag::saved || arena->tag() == MemoryTag::workspace)
      bytes += static_cast<double>(arena->high_water());
  return bytes;
}

void run(Communicator& world, const Options& o) {
  detect_topology(world, o.ranks_per_node);
  Mesh mesh(world, o.layout);
  Transformer model(o.model, o.dtype, mesh, 1, true);
  Optimizer optimizer(OptimizerConfig{}, model.parameters(), mesh, o.zero_stage);
  TrainingStep step(model, optimizer, mesh, o.micro_batch);
  std::uint64_t number = 0;
  const auto once = [&] {
    step.run(1, 1e-4, [&](std::int64_t, const Tensor& tokens, const Tensor& targets) {
      fill_tokens(o, mesh, ++number, tokens, targets);
    });
  };
  for (int i = 0; i < 2; ++i) once();  // arenas grow to their size, connections are made
  std::vector<double> times;
  for (int i = 0; i < o.steps; ++i) {
    world.barrier();
    const Timer timer;
    once();
    times.push_back(1e3 * world.all_reduce(timer.seconds(), ReduceOp::max));
  }
  std::nth_element(times.begin(), times.begin() + o.steps / 2, times.end());
  // What ranks receive differs; the tokens of all together are as many whatever the routing.
  const double moe =
      world.all_reduce(static_cast<double>(model.moe_saved_bytes(0)), ReduceOp::sum) / world.size();
  const double kept = world.all_reduce(saved_bytes(model), ReduceOp::max);
  const double state = world.all_reduce(static_cast<double>(optimizer.arena().in_use()), ReduceOp::max);
  const double least_state =
      world.all_reduce(least_optimizer_bytes(model.parameters(), o.zero_stage), ReduceOp::max);
  if (world.rank() != 0) return;
  Bench bench;
  const std::string shape = describe(o, world);
  const std::string dtype(name_of(o.dtype));
  bench.add({o.label + ".step", shape, dtype, times[static_cast<std::size_t>(o.steps / 2)], "ms", 0.0});
  bench.add({o.label + ".moe_saved", shape, dtype, moe / 1e6, "MB", 0.0});
  bench.add({o.label + ".activations", shape, dtype, kept / 1e6, "MB", 0.0});
  bench.add({o.label + ".optimizer", shape, dtype, state / 1e6, "MB", least_state / 1e6});
  if (!o.json.empty()) append_json(bench.rows(), o.json);
}

}  // namespace

int main(int argc, char** argv) {
  CommunicationSession session(&argc, &argv);
  log::set_rank(session.world().rank(), session.world().size());
  CLI::App app("A training step under one parallel layout; start it with mpirun -n RANKS.");
  Options options;
  declare(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    finish(options);
    run(session.world(), options);
  } catch (const std::exception& error) {
    log::write_error(error.what());
    session.abort(1);
  }
  return 0;
}
