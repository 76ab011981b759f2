#include "train/memory_account.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>

#include "base/log.h"
#include "model/memory.h"
#include "train/checkpoint/manifest.h"
#include "train/gradient_reduction.h"
#include "train/optimizer.h"

namespace xmoe {

namespace {

// Sums of gradients under way at a time; each has a bucket beside the gradients.
constexpr std::size_t kBucketsInFlight = 2;

std::size_t largest_bucket(std::span<const ParameterGroup> groups) {
  std::size_t largest = 0;
  for (const auto& group : groups) {
    if (group.replicas == 1) continue;
    std::int64_t stage = 0;
    std::int64_t begin = 0;
    for (const std::int64_t end : group.stage_ends) {
      stage = std::max(stage, end - begin);
      begin = end;
    }
    // Stages are added until there are kBucketElements.
    const std::int64_t elements = std::min(group.stage_ends.back(), kBucketElements + stage);
    largest = std::max(largest, static_cast<std::size_t>(elements) * size_of(group.gradient_dtype));
  }
  return largest;
}

// A change of one kind; false where there is nothing (more) to change. The flags stand for all that was
// changed so far.
struct Change {
  std::function<bool(TrainConfig&, int world_size)> apply;
  std::function<std::string(const TrainConfig&)> flags;
};

bool shard_optimizer(TrainConfig& c, int world_size) {
  return world_size > 1 && std::exchange(c.parallel.zero_stage, 1) == 0;
}

bool narrow_moments(TrainConfig& c, int) {
  OptimizerConfig& o = c.optimizer;
  const bool wide = o.exp_avg_dtype == DType::f32 || o.exp_avg_sq_dtype == DType::f32;
  o.exp_avg_dtype = o.exp_avg_sq_dtype = DType::bf16;
  return wide;
}

bool recompute_experts(TrainConfig& c, int) {
  RecomputeConfig& r = c.model.recompute;
  if (r.layer || (r.attention && r.moe && r.mlp)) return false;
  r.attention = r.moe = r.mlp = r.listed = true;
  return true;
}

bool recompute_layers(TrainConfig& c, int) {
  if (c.model.recompute.layer) return false;
  c.model.recompute = {.layer = true};
  return true;
}

// A divisor still divides the batch of a step.
bool shrink_micro_batch(TrainConfig& c, int) {
  std::int64_t& micro = c.batch.micro;
  if (micro == 1) return false;
  std::int64_t next = micro / 2;
  while (micro % next != 0) --next;
  micro = next;
  return true;
}

bool spread_experts(TrainConfig& c, int world_size) {
  const std::int64_t experts = c.model.moe.router.experts;
  ParallelLayout layout = c.parallel.layout;
  for (++layout.expert; layout.expert <= std::min<std::int64_t>(experts, world_size); ++layout.expert) {
    if (experts % layout.expert != 0 || !layout_problem(layout, world_size).empty()) continue;
    c.parallel.layout = layout;
    return true;
  }
  return false;
}

bool narrow_gradients(TrainConfig& c, int) {
  return c.compute_dtype == DType::bf16 && c.model.moe.router.experts > 0 &&
         std::exchange(c.model.expert_gradients, DType::bf16) == DType::f32;
}

bool compute_in_bf16(TrainConfig& c, int) {
  if (c.compute_dtype != DType::f32) return false;
  c.compute_dtype = DType::bf16;
  return true;
}

// The ones that cost the least come first.
std::vector<Change> changes() {
  const auto always = [](const char* text) {
    return [text](const TrainConfig&) { return std::string(text); };
  };
  return {
      {shard_optimizer, always("--zero-stage 1")},
      {spread_experts,
       [](const TrainConfig& c) {
         return fmt::format("--expert-model-parallel-size {}", c.parallel.layout.expert);
       }},
      {narrow_moments, always("--exp-avg-dtype bf16 --exp-avg-sq-dtype bf16")},
      {shrink_micro_batch,
       [](const TrainConfig& c) { return fmt::format("--micro-batch-size {}", c.batch.micro); }},
      {recompute_experts, always("--recompute-granularity selective --recompute-modules attention,moe,mlp")},
      {recompute_layers, always("--recompute-granularity full")},
      {compute_in_bf16, always("--bf16")},
      {narrow_gradients, always("--main-grads-dtype bf16")}};
}

// The first of a list of changes, each repeated as often as it can be, that makes the training fit. `times`
// says how often each was made.
struct Fitting {
  std::vector<int> times;
  TrainConfig config;
};

std::size_t needed(const TrainConfig& config, int world_size) {
  return plan_training_memory(config, world_size).total();
}

TrainConfig changed(TrainConfig config, int world_size, const std::vector<Change>& list,
                    const std::vector<int>& times) {
  for (std::size_t i = 0; i < list.size(); ++i)
    for (int n = 0; n < times[i]; ++n) list[i].apply(config, world_size);
  return config;
}

std::optional<Fitting> find_fitting(const TrainConfig& config, int world_size, std::size_t available) {
  const std::vector<Change> list = changes();
  Fitting found{std::vector<int>(list.size(), 0), config};
  const auto fits = [&](const TrainConfig& c) { return needed(c, world_size) <= available; };
  for (std::size_t i = 0; i < list.size() && !fits(found.config); ++i)
    while (!fits(found.config) && list[i].apply(found.config, world_size)) ++found.times[i];
  if (!fits(found.config)) return std::nullopt;
  // What a later change made superfluous is taken back, the costliest first.
  for (std::size_t i = list.size(); i-- > 0;) {
    while (found.times[i] > 0) {
      --found.times[i];
      TrainConfig less = changed(config, world_size, list, found.times);
      if (!fits(less)) {
        ++found.times[i];
        break;
      }
      found.config = std::move(less);
    }
  }
  return found;
}

}  // namespace

std::size_t MemoryAccount::total() const {
  return std::accumulate(bytes.begin(), bytes.end(), std::size_t{0});
}

MemoryAccount plan_training_memory(const TrainConfig& config, int world_size) {
  const Placement placement = placement_of(config.parallel.layout, world_size);
  const ParameterSet parameters = plan_parameters(config.model, config.compute_dtype, placement);
  const ModelMemory model =
      plan_memory(config.model, config.compute_dtype, placement, config.batch.micro, config.device.kind);
  MemoryAccount account;
  account.of(MemoryTag::parameters) = model.parameters;
  account.of(MemoryTag::gradients) = model.gradients;
  account.of(MemoryTag::optimizer) =
      optimizer_bytes(parameters.groups(), config.optimizer, config.parallel.zero_stage);
  account.of(MemoryTag::saved) = model.saved;
  account.of(MemoryTag::workspace) = model.workspace;
  account.of(MemoryTag::communication) = kBucketsInFlight * largest_bucket(parameters.groups());
  return account;
}

MemoryAdvice advise_memory(const TrainConfig& config, int world_size, std::size_t available) {
  const std::vector<Change> list = changes();
  const std::size_t now = needed(config, world_size);
  MemoryAdvice advice;
  for (const Change& change : list) {
    TrainConfig other = config;
    if (!change.apply(other, world_size)) continue;
    const std::size_t then = needed(other, world_size);
    if (then < now) advice.savings.push_back({change.flags(other), now - then});
  }
  const auto fitting = find_fitting(config, world_size, available);
  if (!fitting) return advice;
  for (std::size_t i = 0; i < list.size(); ++i)
    if (fitting->times[i] > 0)
      advice.together +=
          fmt::format("{}{}", advice.together.empty() ? "" : " ", list[i].flags(fitting->config));
  advice.needed = needed(fitting->config, world_size);
  return advice;
}

std::string too_large_message(const TrainConfig& config, int world_size, const std::string& device,
                              std::size_t available) {
  const MemoryAccount account = plan_training_memory(config, world_size);
  std::string text = fmt::format("the training does not fit: a rank needs {}, and its share of {} is {}\n",
                                 format_bytes(account.total()), device, format_bytes(available));
  for (std::size_t i = 0; i < kMemoryTags; ++i)
    if (account.bytes[i] > 0)
      text +=
          fmt::format("  {:<20}{:>10}\n", name_of(static_cast<MemoryTag>(i)), format_bytes(account.bytes[i]));
  if (config.parallel.layout.expert > 1)
    text += fmt::format("  (for tokens that choose evenly; at worst a rank has {} times as many rows)\n",
                        config.parallel.layout.expert);
  const MemoryAdvice advice = advise_memory(config, world_size, available);
  if (!advice.savings.empty()) text += "What one change alone saves:\n";
  for (const MemorySaving& saving : advice.savings)
    text += fmt::format("  {:>10}  {}\n", format_bytes(saving.bytes), saving.flags);
  if (advice.together.empty())
    text += "No combination of these fits: use more ranks, or a smaller model";
  else
    text += fmt::format("It fits with {}: then {} are needed", advice.together, format_bytes(advice.needed));
  return text;
}

MemoryAccount check_memory(const TrainConfig& config, const Device& device, Communicator& world) {
  // Ranks of one machine that use the same device share it.
  const std::unique_ptr<Communicator> machine = world.split_by_memory("machine");
  const auto names = machine->all_gather_text(name_of(device));
  const auto sharing = std::count(names.begin(), names.end(), name_of(device));
  const std::size_t share = device_memory(device).free / static_cast<std::size_t>(sharing);
  const auto least =
      static_cast<std::size_t>(world.all_reduce(static_cast<std::int64_t>(share), ReduceOp::min));
  const MemoryAccount account = plan_training_memory(config, world.size());
  if (account.total() > least)
    fail_everywhere("{}", too_large_message(config, world.size(), name_of(device), least));
  std::string parts;
  for (std::size_t i = 0; i < kMemoryTags; ++i)
    if (account.bytes[i] > 0)
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", name_of(static_cast<MemoryTag>(i)),
                           format_bytes(account.bytes[i]));
  log::info("memory: a rank needs {} of {} ({})", format_bytes(account.total()), format_bytes(least), parts);
  return account;
}

std::string peak_memory_line(const Device& device, Communicator& world) {
  std::string line = "peak memory of a rank: ";
  const auto tags = memory_by_tag(device);
  std::size_t total = 0;
  for (std::size_t i = 0; i < kMemoryTags; ++i) {
    const auto most = static_cast<std::size_t>(
        world.all_reduce(static_cast<std::int64_t>(tags[i].high_water), ReduceOp::max));
    if (most == 0) continue;
    line += fmt::format("{} {}, ", name_of(static_cast<MemoryTag>(i)), format_bytes(most));
    total += most;
  }
  return line + fmt::format("together {}", format_bytes(total));
}

}  // namespace xmoe
