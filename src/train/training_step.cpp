#include "train/training_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/together.h"

namespace xmoe {

TrainingStep::TrainingStep(Transformer& model, Optimizer& optimizer, Mesh& mesh,
                           std::int64_t micro_batch_size, const LossScaler& scaler)
    : model_(model),
      optimizer_(optimizer),
      mesh_(mesh),
      micro_batch_size_(micro_batch_size),
      batch_({}, MemoryTag::workspace),
      scaler_(scaler) {}

void TrainingStep::read_batch(std::int64_t micro_batches, const Loader& load) {
  if (!tokens_.defined() || tokens_.dim(0) != micro_batches) {
    batch_.clear();
    const Shape shape = {micro_batches, micro_batch_size_ * model_.config().seq_length};
    tokens_ = batch_.tensor(DType::i32, shape);
    targets_ = batch_.tensor(DType::i32, shape);
  }
  // All of it before the first forward: a rank that cannot read its part must not leave the others waiting in
  // the middle of a layer.
  together(mesh_.world(), [&] {
    for (std::int64_t i = 0; i < micro_batches; ++i) load(i, tokens_[i], targets_[i]);
  });
}

StepResult TrainingStep::run(std::int64_t micro_batches, double learning_rate, const Loader& load) {
  XMOE_CHECK(micro_batches > 0, "a step without micro-batches has no gradients");
  read_batch(micro_batches, load);
  StepResult result;
  std::int64_t dropped = 0;
  std::int64_t assignments = 0;
  const double share = 1.0 / static_cast<double>(micro_batches);
  const double loss_scale = scaler_.scale();
  model_.clear_gradients();
  model_.clear_counts();
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    // The gradients of the last micro-batch complete the sums of all: they travel while backward goes on.
    std::function<void(int)> completed;
    if (i + 1 == micro_batches) completed = [&](int stage) { optimizer_.start_reduction(stage); };
    const MicroBatchResult r =
        model_.forward_backward(tokens_[i], targets_[i], micro_batch_size_, share * loss_scale, completed);
    result.lm_loss += share * r.lm_loss;
    result.aux_loss += share * r.aux_loss;
    result.z_loss += share * r.z_loss;
    dropped += r.dropped;
    assignments += r.assignments;
  }
  optimizer_.reduce_gradients();
  result.gradient_norm = optimizer_.gradient_norm(model_.context(), loss_scale);
  // The sign of a NaN says nothing, and "-nan" confuses scripts and people.
  for (double* value : {&result.lm_loss, &result.aux_loss, &result.z_loss, &result.gradient_norm})
    if (std::isnan(*value)) *value = std::numeric_limits<double>::quiet_NaN();
  // Losses and norm are sums over all ranks: every rank decides the same.
  const bool finite_loss = std::isfinite(result.lm_loss + result.aux_loss + result.z_loss);
  const bool finite_norm = std::isfinite(result.gradient_norm);
  result.skipped = !finite_loss || !finite_norm;
  result.overflow = finite_loss && !finite_norm && scaler_.can_fall();
  if (!result.skipped || result.overflow)
    consecutive_skips_ = 0;
  else if (++consecutive_skips_ == kMaxConsecutiveSkips)
    fail_non_finite(result);
  if (!result.skipped) {
    optimizer_.step(model_.context(), learning_rate, result.gradient_norm, loss_scale);
    model_.update_expert_bias();
  }
  if (finite_loss || !finite_norm) scaler_.update(!finite_norm);
  summarise(dropped, assignments, tokens_.numel(), result);
  return result;
}

void TrainingStep::summarise(std::int64_t dropped, std::int64_t assignments, std::int64_t tokens,
                             StepResult& result) {
  const ModelConfig& c = model_.config();
  dropped = mesh_.world().all_reduce(dropped, ReduceOp::sum);
  assignments = mesh_.world().all_reduce(assignments, ReduceOp::sum);
  tokens = mesh_.dp().all_reduce(tokens, ReduceOp::sum);
  if (assignments > 0)
    result.dropped_fraction = static_cast<double>(dropped) / static_cast<double>(assignments);
  // A row through an expert costs 2 operations per weight in forward, 4 in backward.
  const double row_flops =
      6.0 * static_cast<double>(c.hidden *
                                (preactivation_width(c.moe.activation, c.moe.ffn_hidden) + c.moe.ffn_hidden));
  result.useful_flops =
      c.flops_per_token() * static_cast<double>(tokens) - row_flops * static_cast<double>(dropped);
  const Tensor& counts = model_.expert_counts();
  if (!counts.defined()) return;
  for (std::int64_t l = 0; l < counts.dim(0); ++l) {
    const auto* row = counts[l].data<std::int64_t>();
    std::int64_t total = 0;
    for (std::int64_t e = 0; e < counts.dim(1); ++e) total += row[e];
    if (total == 0) continue;
    const double most = static_cast<double>(*std::max_element(row, row + counts.dim(1)));
    result.expert_load_max_over_mean += most * static_cast<double>(counts.dim(1)) /
                                        static_cast<double>(total) / static_cast<double>(counts.dim(0));
  }
}

void TrainingStep::fail_non_finite(const StepResult& result) {
  std::string where = "no rank finds it in its last micro-batch";
  // What is not finite on one rank soon is on the others: the earliest place over all ranks is the cause.
  const auto place = model_.locate_non_finite();
  constexpr std::int64_t kNowhere = std::numeric_limits<std::int64_t>::max();
  const std::int64_t stage = place ? place->stage : kNowhere;
  const std::int64_t first = mesh_.world().all_reduce(stage, ReduceOp::min);
  const auto names = mesh_.world().all_gather_text(place && stage == first ? place->name : "");
  for (std::size_t r = 0; r < names.size(); ++r) {
    if (names[r].empty()) continue;
    where = fmt::format("it arises first in {} (rank {})", names[r], r);
    break;
  }
  const bool scaled = scaler_.scale() != 1.0 || scaler_.dynamic();
  const std::string scale = scaled ? fmt::format(" (at a loss scale of {})", scaler_.scale()) : "";
  std::string remedy =
      "Lower --lr or lengthen the warm-up, set --clip-grad, or resume from an earlier checkpoint";
  if (scaled && std::isfinite(result.lm_loss))  // gradients that are too large in fp16 alone
    remedy = (scaler_.dynamic() ? "Lower --min-loss-scale"
                                : "Lower --loss-scale, or leave it out for one that finds its place") +
             std::string(". If that does not help: lower --lr or resume from an earlier checkpoint");
  fail_everywhere("loss {} and gradient norm {}{} are not finite, for the {}rd iteration in a row; {}. {}",
                  result.lm_loss, result.gradient_norm, scale, kMaxConsecutiveSkips, where, remedy);
}

}  // namespace xmoe
