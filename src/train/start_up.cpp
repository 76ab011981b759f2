#include "train/start_up.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "train/device_choice.h"
#include "train/signals.h"

namespace xmoe {

namespace {

constexpr double kMillion = 1e6;

std::string counted(std::int64_t count, const std::string& what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string model_line(const ModelConfig& m) {
  const auto counts = m.parameter_counts();
  return fmt::format(
      "model: {:.2f} M parameters, {:.2f} M active per token; {} layers, hidden {}, {} experts, top-{}",
      static_cast<double>(counts.total) / kMillion, static_cast<double>(counts.active) / kMillion, m.layers,
      m.hidden, m.moe.router.experts, m.moe.router.top_k);
}

// The fewest and the most ranks of a node.
std::pair<std::int64_t, std::int64_t> ranks_of_nodes(const Topology& topology) {
  std::vector<std::int64_t> ranks;
  ranks.reserve(static_cast<std::size_t>(topology.nodes()));
  for (int node = 0; node < topology.nodes(); ++node)
    ranks.push_back(static_cast<std::int64_t>(topology.ranks_of(node).size()));
  const auto [least, most] = std::minmax_element(ranks.begin(), ranks.end());
  return {*least, *most};
}

// "2 nodes of 4 ranks", "2 nodes of 3 to 4 ranks"
std::string nodes_text(const Topology& topology) {
  const auto [least, most] = ranks_of_nodes(topology);
  return fmt::format("{} of {}{}", counted(topology.nodes(), "node"),
                     least == most ? "" : fmt::format("{} to ", least), counted(most, "rank"));
}

int ranks_in(const StartUpFacts& facts) { return static_cast<int>(facts.topology.node_of.size()); }

std::string layout_line(const TrainConfig& config, const StartUpFacts& facts) {
  const ParallelLayout& layout = config.parallel.layout;
  std::string text = fmt::format("layout: {}, {} each; tensor parallel {}, data parallel {}",
                                 nodes_text(facts.topology), counted(facts.threads, "thread"), layout.tensor,
                                 data_parallel_size(layout, ranks_in(facts)));
  if (config.model.moe.router.experts > 0) {
    const std::int64_t holders = layout.expert_tensor ? ranks_in(facts) / layout.tensor : ranks_in(facts);
    text += fmt::format(", expert parallel {} ({}), replicas of an expert {}", layout.expert,
                        layout.placement == ExpertPlacement::ep_first ? "ep-first" : "dp-first",
                        holders / layout.expert);
  }
  if (layout.tensor > 1 && config.model.moe.router.experts > 0)
    text += layout.expert_tensor ? ", experts cut over tensor parallel ranks"
                                 : ", MoE blocks on parts of the sequence";
  return text;
}

std::string batch_line(const TrainConfig& config, const StartUpFacts& facts) {
  const std::int64_t count = config.micro_batches(ranks_in(facts));
  return fmt::format("batch: {} in {} micro-batch{} of {} of {} tokens; {}, ZeRO stage {}",
                     counted(config.batch.global, "sequence"), count, count == 1 ? "" : "es",
                     counted(config.batch.global / count, "sequence"), config.model.seq_length,
                     name_of(config.compute_dtype), config.parallel.zero_stage);
}

std::string data_line(const TrainConfig& config, const StartUpFacts& facts) {
  std::string text = fmt::format(
      "data: {:.2f} M tokens an epoch, {:.2f} epochs in {} iterations; ",
      static_cast<double>(facts.tokens_per_epoch) / kMillion,
      static_cast<double>(config.batch.train_iterations * config.batch.global * config.model.seq_length) /
          static_cast<double>(facts.tokens_per_epoch),
      config.batch.train_iterations);
  if (!facts.validation_windows) return text + "no validation";
  const std::int64_t used =
      std::min(*facts.validation_windows, config.validation.iterations * config.batch.global);
  return text + fmt::format("validation on {} of {} of {} tokens", used,
                            counted(*facts.validation_windows, "window"), config.model.seq_length);
}

}  // namespace

ParallelRun::ParallelRun(Communicator& host_world, const DeviceConfig& device_config,
                         const ParallelLayout& layout, std::int64_t ranks_per_node, double timeout_minutes)
    : device(choose_device(device_config, host_world)),
      world(host_world.size() == 1 ? make_self_communicator("world", device)
                                   : make_device_communicator(host_world, device, device_config.backend)),
      topology(detect_topology(*world, static_cast<int>(ranks_per_node))),
      mesh(*world, layout),
      watchdog(host_world, {.limit_seconds = 60.0 * timeout_minutes,
                            .stop_seconds = 30.0,  // less than the minute that schedulers commonly leave
                            .stopping = [] { return stop_signal() != 0; },
                            .on_hang = {}}) {}

void settle_dispatcher(TrainConfig& config, const Mesh& mesh, const Device& device) {
  MoeConfig& moe = config.model.moe;
  if (moe.router.experts == 0 || moe.dispatcher != DispatcherKind::automatic) return;
  const ParallelLayout& layout = config.parallel.layout;
  // MoE blocks work on parts of the sequence, but for experts that are cut.
  const std::int64_t tokens =
      config.batch.micro * config.model.seq_length / (layout.expert_tensor ? 1 : layout.tensor);
  const DispatcherChoice choice = choose_dispatcher(mesh.ep(), mesh.ep_node(), moe, tokens,
                                                    config.model.hidden, config.compute_dtype, device);
  // Groups may measure differently, and a rank's layers need what its group has; all take the same, so that
  // one name stands for the run.
  const auto rbd =
      mesh.world().all_reduce(std::int64_t{choice.kind == DispatcherKind::rbd ? 1 : 0}, ReduceOp::min);
  moe.dispatcher = rbd == 1 ? DispatcherKind::rbd : DispatcherKind::flat;
  log::info("{}", dispatcher_line(choice, moe.dispatcher));
}

std::string dispatcher_line(const DispatcherChoice& choice, DispatcherKind taken) {
  // The reason begins with the kind that it is for.
  if (choice.kind == taken) return "dispatcher: " + choice.why;
  return "dispatcher: flat: another expert-parallel group found it to be the faster one; here " + choice.why;
}

ModelConfig model_to_run(ModelConfig trained) {
  trained.moe.dispatcher = DispatcherKind::flat;
  trained.moe.overlap_chunks = 1;
  trained.recompute = {};
  return trained;
}

std::vector<std::string> start_up_lines(const TrainConfig& resolved, const StartUpFacts& facts) {
  const std::string throughput =
      "throughput per GPU counts useful operations only (causal attention as half, kept rows of active "
      "experts); TFLOPs counts as X-MoE does (all of the square, dropped rows too)";
  std::vector<std::string> lines = {model_line(resolved.model), layout_line(resolved, facts),
                                    batch_line(resolved, facts), data_line(resolved, facts), throughput};
  const MoeConfig& moe = resolved.model.moe;
  if (moe.router.experts > 0 && moe.capacity_factor)
    lines.push_back(fmt::format(
        "capacity factor {}: an expert's share is of the tokens that a rank routes together, so that other "
        "layouts drop other assignments and their losses differ",
        *moe.capacity_factor));
  if (ranks_in(facts) > 1) {
    std::string mesh = describe(resolved.parallel.layout, facts.topology);
    mesh.pop_back();  // the end of the last line is the log's
    lines.push_back(std::move(mesh));
  }
  return lines;
}

std::vector<std::string> start_up_warnings(const TrainConfig& config, const StartUpFacts& facts) {
  std::vector<std::string> warnings;
  if (config.checkpoint.save.empty())
    warnings.emplace_back("nothing is saved without --save DIRECTORY: the trained model is lost at the end");
  const std::int64_t ranks = ranks_of_nodes(facts.topology).second;
  const std::int64_t fitting = std::max<std::int64_t>(1, facts.cores / ranks);
  if (facts.cores > 0 && facts.threads > fitting && config.device.kind == Device::Kind::cpu)
    warnings.push_back(fmt::format("{} of {} share {} cores, which slows all down: set OMP_NUM_THREADS={}",
                                   counted(ranks, "rank"), counted(facts.threads, "thread"), facts.cores,
                                   fitting));
  return warnings;
}

}  // namespace xmoe
