// AdamW over the parameters of a model, and the global gradient norm. Weights are updated in f32: what a
// 16-bit value lacks of its f32 master is kept as a 16-bit remainder (base/split_float.h). docs/memory.md
// says what a parameter costs.
//
// With ZeRO stage 1 (Rajbhandari et al. 2020) the state is cut over the ranks that hold the same parameter:
// each owns one part of every bucket of the flat buffers (gradient_reduction.h), gets only that part of the
// summed gradients, updates it and sends the new values to the others. Sums are taken in the same order as
// without, so that the results are the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/mesh.h"
#include "device/arena.h"
#include "model/parameter_set.h"
#include "ops/adamw/adamw.h"
#include "train/config.h"
#include "train/gradient_reduction.h"

namespace xmoe {

class Optimizer {
 public:
  // What this rank has of a parameter's state: elements [begin, begin + value.numel()) of the part that the
  // rank holds of the parameter. None with ZeRO when other ranks have all of it.
  struct State {
    const Parameter* parameter;
    std::int64_t begin = 0;
    Tensor value;      // [n] the parameter's own memory
    Tensor remainder;  // [n] i16 where the value has 16 bits
    Tensor m, v;       // [n] in the configured dtypes; undefined for buffers, which are not trained
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
  // same on all ranks. Call after reduce_gradients(). The gradients are those of the loss times `loss_scale`,
  // the norm is that of their quotients.
  double gradient_norm(const Context& ctx, double loss_scale = 1.0);
  // One update with gradients divided by the scale and clipped to the configured norm. Call after
  // gradient_norm().
  void step(const Context& ctx, double learning_rate, double gradient_norm, double loss_scale = 1.0);

  // Brings the values that other ranks hold the state of: after a load wrote own ones.
  void gather_values();

  const std::vector<State>& states() const { return states_; }  // of all parameters, in their order
  // Whether each element of a trained parameter's state is on one rank only.
  bool sharded() const { return sharded_; }
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  const Arena& arena() const { return arena_; }

 private:
  // Neighbours in a run that are updated alike, what fills up between them included: one call of the op.
  struct Piece {
    AxisRange range;  // of the run
    bool decay = true;
  };
  // State of a bucket's elements: all of them, or this rank's part.
  struct Run {
    AxisRange range;         // of the group's flat buffers
    Tensor remainder, m, v;  // [n], padding included
    std::vector<Piece> pieces;
  };

  void allocate();
  void add_state(const Parameter& parameter);
  void update(std::size_t bucket, const Context& ctx, AdamWOptions options);

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

// Bytes of an optimizer's state on one rank.
std::size_t optimizer_bytes(std::span<const ParameterGroup> groups, const OptimizerConfig& config,
                            std::int64_t zero_stage);

}  // namespace xmoe
