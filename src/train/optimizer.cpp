#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "ops/adamw/adamw.h"
#include "ops/elementwise/elementwise.h"
#include "ops/reduce/reduce.h"

namespace xmoe {

Optimizer::Optimizer(const OptimizerConfig& config, ParameterSet& parameters, Mesh& mesh)
    : config_(config), parameters_(parameters), mesh_(mesh), arena_({}, MemoryTag::optimizer) {
  const Context ctx{arena_};
  for (const auto& p : parameters.all()) {
    State state{&p, p.value, {}, {}};
    if (p.value.dtype() != DType::f32) {
      state.master = arena_.tensor(DType::f32, p.value.shape());
      convert(ctx, p.value, state.master);
    }
    if (p.trainable) {
      state.m = arena_.zeros(DType::f32, p.value.shape());
      state.v = arena_.zeros(DType::f32, p.value.shape());
    }
    states_.push_back(state);
  }
}

void Optimizer::reduce_gradients() {
  for (const auto& g : parameters_.groups())
    replicas(mesh_, g.replication).all_reduce(g.gradients, ReduceOp::sum);
}

double Optimizer::gradient_norm(const Context& ctx) const {
  double squares = 0.0;
  for (const auto& g : parameters_.groups()) {
    double own = sum_of_squares(ctx, g.gradients);
    // Ranks of an ep group hold different experts; the groups are replicas of each other.
    if (g.replication == Replication::expert) own = mesh_.ep().all_reduce(own, ReduceOp::sum);
    const bool cut_over_tp = g.replication == Replication::tensor ||
                             (g.replication == Replication::expert && mesh_.layout().expert_tensor);
    if (cut_over_tp) own = mesh_.tp().all_reduce(own, ReduceOp::sum);
    squares += own;
  }
  return std::sqrt(squares);
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
  for (const auto& s : states_) {
    if (!s.parameter->trainable) continue;
    const Shape flat = {s.master.numel()};
    options.weight_decay = s.parameter->decay ? config_.weight_decay : 0.0;
    adamw(ctx, options, s.parameter->grad.reshape(flat), s.master.reshape(flat), s.m.reshape(flat),
          s.v.reshape(flat), s.parameter->value.reshape(flat));
  }
}

void Optimizer::masters_to_values(const Context& ctx) {
  for (const auto& s : states_)
    if (s.master.raw() != s.parameter->value.raw()) convert(ctx, s.master, s.parameter->value);
}

}  // namespace xmoe
