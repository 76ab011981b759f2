// One iteration: forward and backward of the micro-batches of a global batch, reduction of gradients, update.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "comm/mesh.h"
#include "model/transformer.h"
#include "train/loss_scaler.h"
#include "train/optimizer.h"

namespace xmoe {

// What an iteration yields; the same on every rank.
struct StepResult {
  double lm_loss = 0.0;  // mean over the micro-batches
  double aux_loss = 0.0;
  double z_loss = 0.0;
  double gradient_norm = 0.0;              // of the loss without its scale, before clipping
  bool skipped = false;                    // the loss or the norm was not finite: no update was made
  bool overflow = false;                   // for the loss scale alone, which a smaller one may cure
  double dropped_fraction = 0.0;           // of all assignments of all ranks
  double expert_load_max_over_mean = 0.0;  // of the most loaded expert, mean over the MoE layers; 1 is even
  double useful_flops = 0.0;               // of all ranks
};

class TrainingStep {
 public:
  // Fills tokens and targets, [micro * S] i32 each, with this rank's part of micro-batch `index`. May throw
  // Error on some ranks only.
  using Loader = std::function<void(std::int64_t index, const Tensor& tokens, const Tensor& targets)>;

  TrainingStep(Transformer& model, Optimizer& optimizer, Mesh& mesh, std::int64_t micro_batch_size,
               const LossScaler& scaler = {});

  // Throws Error on all ranks alike, before anything is changed, if the batch cannot be read on some; and
  // after kMaxConsecutiveSkips iterations in a row without a finite result, naming where it arises first.
  // Overflows of gradients do not count as such as long as the loss scale can fall.
  StepResult run(std::int64_t micro_batches, double learning_rate, const Loader& load);

  LossScaler& scaler() { return scaler_; }
  const LossScaler& scaler() const { return scaler_; }

  static constexpr int kMaxConsecutiveSkips = 3;

 private:
  void read_batch(std::int64_t micro_batches, const Loader& load);
  void summarise(std::int64_t dropped, std::int64_t assignments, std::int64_t tokens, StepResult& result);
  [[noreturn]] void fail_non_finite(const StepResult& result);

  Transformer& model_;
  Optimizer& optimizer_;
  Mesh& mesh_;
  std::int64_t micro_batch_size_;
  Arena batch_;
  Tensor tokens_, targets_;  // [micro_batches, micro * S] i32
  LossScaler scaler_;
  int consecutive_skips_ = 0;
};

}  // namespace xmoe
