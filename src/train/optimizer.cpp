#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/profile.h"
#include "base/rng.h"
#include "ops/reduce/reduce.h"

namespace xmoe {

namespace {

Tensor part(const Tensor& flat, const AxisRange& range) {
  return flat.defined() ? flat.slice(range.begin, range.begin + range.size) : flat;
}

// Elements of a group whose state a rank has.
std::int64_t state_size(const ParameterGroup& group, bool sharded) {
  return group.stage_ends.back() / (sharded ? group.replicas : 1);
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, ParameterSet& parameters, Mesh& mesh,
                     std::int64_t zero_stage, std::int64_t bucket_elements)
    : config_(config),
      parameters_(parameters),
      mesh_(mesh),
      sharded_(zero_stage > 0),
      reduction_(parameters, mesh, sharded_, bucket_elements),
      arena_(parameters.device(), MemoryTag::optimizer) {
  allocate();
  for (const auto& p : parameters.all()) add_state(p);
}

std::size_t optimizer_bytes(std::span<const ParameterGroup> groups, const OptimizerConfig& config,
                            std::int64_t zero_stage) {
  std::size_t bytes = 0;
  for (const auto& group : groups) {
    const auto size = static_cast<std::size_t>(state_size(group, zero_stage > 0));
    if (group.dtype != DType::f32) bytes += Arena::aligned(size * size_of(DType::i16));
    bytes += Arena::aligned(size * size_of(config.exp_avg_dtype));
    bytes += Arena::aligned(size * size_of(config.exp_avg_sq_dtype));
  }
  return bytes;
}

void Optimizer::allocate() {
  const auto groups = parameters_.groups();
  arena_.reserve(optimizer_bytes(groups, config_, sharded_ ? 1 : 0));
  runs_.resize(reduction_.buckets().size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    // One tensor for all runs of a group: sizes of parts need not be multiples of the arena's alignment.
    // Values start in their 16 bits, so that nothing remains of them.
    const Shape size = {state_size(groups[g], sharded_)};
    const Tensor remainder = groups[g].dtype == DType::f32 ? Tensor{} : arena_.zeros(DType::i16, size);
    const Tensor m = arena_.zeros(config_.exp_avg_dtype, size);
    const Tensor v = arena_.zeros(config_.exp_avg_sq_dtype, size);
    std::int64_t begin = 0;
    for (std::size_t b = 0; b < runs_.size(); ++b) {
      const Bucket& bucket = reduction_.buckets()[b];
      if (bucket.group != g) continue;
      Run& run = runs_[b];
      run.range = sharded_ ? bucket.own : bucket.whole;
      const AxisRange here = {begin, run.range.size};
      begin += run.range.size;
      run.remainder = part(remainder, here);
      run.m = part(m, here);
      run.v = part(v, here);
    }
    XMOE_CHECK(begin == size[0], "runs of {} elements, {} have state", begin, size[0]);
  }
}

void Optimizer::add_state(const Parameter& p) {
  State state{&p, 0, {}, {}, {}, {}};
  const Tensor flat = p.value.reshape({p.value.numel()});
  if (p.group < 0) {
    XMOE_CHECK(p.value.dtype() == DType::f32, "{}: a buffer in {}", p.name, name_of(p.value.dtype()));
    state.value = flat;
    states_.push_back(state);
    return;
  }
  for (std::size_t b = 0; b < runs_.size(); ++b) {
    const AxisRange& whole = reduction_.buckets()[b].whole;
    if (reduction_.buckets()[b].group != static_cast<std::size_t>(p.group) || p.begin < whole.begin ||
        p.begin >= whole.begin + whole.size)
      continue;
    Run& run = runs_[b];
    const std::int64_t first = std::max(p.begin, run.range.begin);
    const std::int64_t last = std::min(p.begin + flat.numel(), run.range.begin + run.range.size);
    const AxisRange here = first < last ? AxisRange{first - run.range.begin, last - first} : AxisRange{};
    state.begin = first < last ? first - p.begin : 0;
    state.value = part(flat, {state.begin, here.size});
    state.remainder = part(run.remainder, here);
    state.m = part(run.m, here);
    state.v = part(run.v, here);
    if (here.size == 0) continue;
    if (run.pieces.empty() || run.pieces.back().decay != p.decay)
      run.pieces.push_back({here, p.decay});
    else
      run.pieces.back().range.size = here.begin + here.size - run.pieces.back().range.begin;
  }
  XMOE_CHECK(state.m.defined() || flat.numel() == 0, "{} lies in no bucket", p.name);
  states_.push_back(state);
}

double Optimizer::gradient_norm(const Context& ctx, double loss_scale) {
  // Every element of the model is in the own part of one rank of the world, whoever else holds it.
  std::vector<Tensor> own;
  double squares = 0.0;
  {
    const profile::Scope scope(profile::Activity::optimizer);
    for (const Bucket& b : reduction_.buckets())
      own.push_back(part(parameters_.groups()[b.group].gradients, b.own));
    squares = sum_of_squares(ctx, own);
  }
  reduction_.finish();
  const profile::Scope scope(profile::Activity::reduction);
  return std::sqrt(mesh_.world().all_reduce(squares, ReduceOp::sum)) / loss_scale;
}

void Optimizer::step(const Context& ctx, double learning_rate, double gradient_norm, double loss_scale) {
  // The small term is that of the usual implementations; it matters only when the norm vanishes.
  constexpr double kEpsilon = 1e-6;
  AdamWOptions options;
  options.learning_rate = learning_rate;
  options.beta1 = config_.beta1;
  options.beta2 = config_.beta2;
  options.epsilon = config_.epsilon;
  options.step = ++steps_;
  if (config_.clip_grad > 0.0)
    options.grad_scale = std::min(1.0, config_.clip_grad / (gradient_norm + kEpsilon));
  options.grad_scale /= loss_scale;
  for (std::size_t b = 0; b < runs_.size(); ++b) {
    update(b, ctx, options);
    if (sharded_) reduction_.start_gather(b);  // travels while the next bucket is updated
  }
  reduction_.finish();
}

void Optimizer::update(std::size_t bucket, const Context& ctx, AdamWOptions options) {
  const profile::Scope scope(profile::Activity::optimizer);
  const std::size_t g = reduction_.buckets()[bucket].group;
  const ParameterGroup& group = parameters_.groups()[g];
  const Run& run = runs_[bucket];
  // By place in the group's flat buffers: whoever updates an element rounds its moments alike.
  options.rounding_key = Rng(config_.rounding_seed, g).bits(static_cast<std::uint64_t>(options.step));
  for (const Piece& piece : run.pieces) {
    const AxisRange flat = {run.range.begin + piece.range.begin, piece.range.size};
    options.first_element = static_cast<std::uint64_t>(flat.begin);
    options.weight_decay = piece.decay ? config_.weight_decay : 0.0;
    adamw(ctx, options, part(group.gradients, flat), part(group.values, flat),
          part(run.remainder, piece.range), part(run.m, piece.range), part(run.v, piece.range));
  }
}

void Optimizer::gather_values() {
  if (!sharded_) return;
  for (std::size_t b = 0; b < runs_.size(); ++b) reduction_.start_gather(b);
  reduction_.finish();
}

}  // namespace xmoe
