// AdamW over the parameters of a model, with f32 master weights where a parameter is not f32 itself, and the
// global gradient norm.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/mesh.h"
#include "device/arena.h"
#include "model/parameter_set.h"
#include "train/config.h"

namespace xmoe {

class Optimizer {
 public:
  struct State {
    const Parameter* parameter;
    Tensor master;  // f32; the parameter's own memory when it is f32
    Tensor m, v;    // f32; undefined for buffers, which are not trained
  };

  Optimizer(const OptimizerConfig& config, ParameterSet& parameters, Mesh& mesh);

  // Sums gradients over the ranks that hold the same parameter: all of them, or the replicas of an expert.
  void reduce_gradients();
  // The norm over all parameters of the model, each counted once whatever the number of its replicas. Call
  // after reduce_gradients().
  double gradient_norm(const Context& ctx) const;
  // One update with gradients clipped to the configured norm.
  void step(const Context& ctx, double learning_rate, double gradient_norm);

  // Values and masters agree: after a load wrote the masters.
  void masters_to_values(const Context& ctx);

  const std::vector<State>& states() const { return states_; }
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  const Arena& arena() const { return arena_; }

 private:
  OptimizerConfig config_;
  ParameterSet& parameters_;
  Mesh& mesh_;
  Arena arena_;
  std::vector<State> states_;
  std::int64_t steps_ = 0;  // updates made
};

}  // namespace xmoe
