// AdamW over the parameters of a model, with f32 master weights where a parameter is not f32 itself, and the
// global gradient norm.
//
// With ZeRO stage 1 (Rajbhandari et al. 2020) the state is cut over the ranks that hold the same parameter:
// each owns one part of every bucket of the flat buffers (gradient_reduction.h), gets only that part of the
// summed gradients, updates it and sends the new values to the others. Sums are taken in the same order as
// without, so that the results are the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/mesh.h"
#include "device/arena.h"
#include "model/parameter_set.h"
#include "train/config.h"
#include "train/gradient_reduction.h"

namespace xmoe {

class Optimizer {
 public:
  // What this rank has of a parameter's state: elements [begin, begin + master.numel()) of the part that the
  // rank holds of the parameter. None with ZeRO when other ranks have all of it.
  struct State {
    const Parameter* parameter;
    std::int64_t begin = 0;
    Tensor master;  // [n] f32; the parameter's own memory when it is f32
    Tensor m, v;    // [n] f32; undefined for buffers, which are not trained
  };

  // `zero_stage` is 0 or 1. `bucket_elements` is for tests, whose models would fit into one bucket.
  Optimizer(const OptimizerConfig& config, ParameterSet& parameters, Mesh& mesh, std::int64_t zero_stage = 0,
            std::int64_t bucket_elements = kBucketElements);

  // Collective, as all below. Backward has completed the gradients of the stages from `stage` on: starts
  // their sums over the ranks that hold the same parameters. Calls are a matter of time only.
  void start_reduction(int stage) { reduction_.start(stage); }
  // Gradients are complete: ends their sums, on this rank's part of them with ZeRO.
  void reduce_gradients() { reduction_.wait_own_parts(); }
  // The norm over all parameters of the model, each counted once whatever the number of its replicas; the
  // same on all ranks. Call after reduce_gradients().
  double gradient_norm(const Context& ctx);
  // One update with gradients clipped to the configured norm. Call after gradient_norm().
  void step(const Context& ctx, double learning_rate, double gradient_norm);

  // Values and masters agree: after a load wrote the masters.
  void masters_to_values(const Context& ctx);

  const std::vector<State>& states() const { return states_; }  // of all parameters, in their order
  // Whether each element of a trained parameter's state is on one rank only.
  bool sharded() const { return sharded_; }
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  const Arena& arena() const { return arena_; }

 private:
  // State of a bucket's elements: all of them, or this rank's part.
  struct Run {
    AxisRange range;                  // of the group's flat buffers
    Tensor master, m, v;              // [n] f32, padding included
    std::vector<std::size_t> states;  // indices in states_ of what lies in it
  };

  void allocate(const Context& ctx);
  void add_state(const Parameter& parameter);
  Tensor value_of(const State& state) const;  // [n] in the compute dtype
  Tensor gradient_of(const State& state) const;

  OptimizerConfig config_;
  ParameterSet& parameters_;
  Mesh& mesh_;
  bool sharded_;
  GradientReduction reduction_;
  Arena arena_;
  std::vector<Run> runs_;  // of the reduction's buckets
  std::vector<State> states_;
  std::int64_t steps_ = 0;  // updates made
};

}  // namespace xmoe
