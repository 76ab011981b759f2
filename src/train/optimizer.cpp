#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/profile.h"
#include "ops/adamw/adamw.h"
#include "ops/elementwise/elementwise.h"
#include "ops/reduce/reduce.h"

namespace xmoe {

namespace {

Tensor part(const Tensor& flat, const AxisRange& range) {
  return flat.slice(range.begin, range.begin + range.size);
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
  allocate({arena_});
  for (const auto& p : parameters.all()) add_state(p);
}

void Optimizer::allocate(const Context& ctx) {
  runs_.resize(reduction_.buckets().size());
  const auto groups = parameters_.groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    // One tensor for all runs of a group: sizes of parts need not be multiples of the arena's alignment.
    const std::int64_t size = groups[g].stage_ends.back() / (sharded_ ? groups[g].replicas : 1);
    const bool is_master = groups[g].dtype == DType::f32;
    const Tensor master = is_master ? Tensor{} : arena_.tensor(DType::f32, {size});
    const Tensor m = arena_.zeros(DType::f32, {size});
    const Tensor v = arena_.zeros(DType::f32, {size});
    std::int64_t begin = 0;
    for (std::size_t b = 0; b < runs_.size(); ++b) {
      const Bucket& bucket = reduction_.buckets()[b];
      if (bucket.group != g) continue;
      Run& run = runs_[b];
      run.range = sharded_ ? bucket.own : bucket.whole;
      const AxisRange here = {begin, run.range.size};
      begin += run.range.size;
      run.m = part(m, here);
      run.v = part(v, here);
      run.master = is_master ? part(groups[g].values, run.range) : part(master, here);
      if (!is_master) convert(ctx, part(groups[g].values, run.range), run.master);
    }
    XMOE_CHECK(begin == size, "runs of {} elements, {} have state", begin, size);
  }
}

void Optimizer::add_state(const Parameter& p) {
  State state{&p, 0, {}, {}, {}};
  const Shape flat = {p.value.numel()};
  if (p.group < 0) {
    state.master = p.value.reshape(flat);
    if (p.value.dtype() != DType::f32) {
      state.master = arena_.tensor(DType::f32, flat);
      convert({arena_}, p.value.reshape(flat), state.master);
    }
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
    const std::int64_t last = std::min(p.begin + flat[0], run.range.begin + run.range.size);
    const AxisRange here = first < last ? AxisRange{first - run.range.begin, last - first} : AxisRange{};
    state.begin = first < last ? first - p.begin : 0;
    state.master = part(run.master, here);
    state.m = part(run.m, here);
    state.v = part(run.v, here);
    if (here.size > 0) run.states.push_back(states_.size());
  }
  XMOE_CHECK(state.m.defined() || flat[0] == 0, "{} lies in no bucket", p.name);
  states_.push_back(state);
}

Tensor Optimizer::value_of(const State& s) const {
  return part(s.parameter->value.reshape({s.parameter->value.numel()}), {s.begin, s.master.numel()});
}

Tensor Optimizer::gradient_of(const State& s) const {
  return part(s.parameter->grad.reshape({s.parameter->grad.numel()}), {s.begin, s.master.numel()});
}

double Optimizer::gradient_norm(const Context& ctx) {
  // Every element of the model is in the own part of one rank of the world, whoever else holds it.
  double squares = 0.0;
  {
    const profile::Scope scope(profile::Activity::optimizer);
    for (const Bucket& b : reduction_.buckets())
      squares += sum_of_squares(ctx, part(parameters_.groups()[b.group].gradients, b.own));
  }
  reduction_.finish();
  const profile::Scope scope(profile::Activity::reduction);
  return std::sqrt(mesh_.world().all_reduce(squares, ReduceOp::sum));
}

void Optimizer::step(const Context& ctx, double learning_rate, double gradient_norm) {
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
  for (std::size_t b = 0; b < runs_.size(); ++b) {
    {
      const profile::Scope scope(profile::Activity::optimizer);
      for (const std::size_t i : runs_[b].states) {
        const State& s = states_[i];
        options.weight_decay = s.parameter->decay ? config_.weight_decay : 0.0;
        adamw(ctx, options, gradient_of(s), s.master, s.m, s.v, value_of(s));
      }
    }
    if (sharded_) reduction_.start_gather(b);  // travels while the next bucket is updated
  }
  reduction_.finish();
}

void Optimizer::masters_to_values(const Context& ctx) {
  for (const auto& s : states_) {
    const Tensor value = value_of(s);
    if (value.numel() > 0 && s.master.raw() != value.raw()) convert(ctx, s.master, value);
  }
  if (!sharded_) return;
  for (std::size_t b = 0; b < runs_.size(); ++b) reduction_.start_gather(b);
  reduction_.finish();
}

}  // namespace xmoe
