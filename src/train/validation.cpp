#include "train/validation.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/cross_entropy/cross_entropy.h"
#include "train/together.h"

namespace xmoe {

double ValidationResult::mean_loss() const {
  return tokens == 0 ? 0.0 : loss_sum / static_cast<double>(tokens);
}
double ValidationResult::perplexity() const { return std::exp(mean_loss()); }
std::optional<double> ValidationResult::bits_per_byte() const {
  if (bytes == 0) return std::nullopt;
  return loss_sum / std::numbers::ln2 / static_cast<double>(bytes);
}

ValidationResult validate_model(Transformer& model, Mesh& mesh, const EvaluationWindows& windows,
                                std::int64_t micro, std::int64_t batches, Progress* progress) {
  const std::int64_t seq = model.config().seq_length;
  const std::int64_t per_batch = micro * mesh.dp().size();
  const std::int64_t all = (windows.count() + per_batch - 1) / per_batch;
  const std::int64_t count = batches == 0 ? all : std::min(batches, all);
  Arena memory({}, MemoryTag::workspace);
  const Tensor tokens = memory.tensor(DType::i32, {micro * seq});
  const Tensor targets = memory.tensor(DType::i32, {micro * seq});
  const Tensor losses = memory.tensor(DType::f32, {micro * seq});
  ValidationResult result;
  for (std::int64_t b = 0; b < count; ++b) {
    together(mesh.world(), [&] {
      for (std::int64_t j = 0; j < micro; ++j) {
        const std::int64_t window = b * per_batch + mesh.dp().rank() * micro + j;
        const auto n = static_cast<std::size_t>(seq);
        const std::span<std::int32_t> in(tokens.data<std::int32_t>() + j * seq, n);
        const std::span<std::int32_t> out(targets.data<std::int32_t>() + j * seq, n);
        if (window < windows.count()) {
          windows.read(window, in, out);
          result.bytes += windows.predicted_bytes(out);
        } else {
          // Ranks take part in the collectives of every batch, if need be with windows that do not count.
          std::fill(in.begin(), in.end(), 0);
          std::fill(out.begin(), out.end(), kIgnoredTarget);
        }
      }
    });
    model.evaluate(tokens, targets, micro, losses);
    for (std::int64_t i = 0; i < micro * seq; ++i) {
      if (targets.data<std::int32_t>()[i] == kIgnoredTarget) continue;
      result.loss_sum += static_cast<double>(losses.data<float>()[i]);
      ++result.tokens;
    }
    if (progress != nullptr) progress->update(std::min(windows.count(), (b + 1) * per_batch));
  }
  // The ranks of a tp group have read and computed the same.
  result.loss_sum = mesh.dp().all_reduce(result.loss_sum, ReduceOp::sum);
  result.tokens = mesh.dp().all_reduce(result.tokens, ReduceOp::sum);
  result.bytes = mesh.dp().all_reduce(result.bytes, ReduceOp::sum);
  return result;
}

}  // namespace xmoe
