#include "cli/config_report.h"

#include <fmt/core.h>

#include "train/flags.h"

namespace xmoe {

namespace {

constexpr double kGibi = 1024.0 * 1024.0 * 1024.0;  // the "B" in which the field counts parameters
constexpr double kMega = 1e6;

std::string parameters_text(std::int64_t count) {
  const auto value = static_cast<double>(count);
  if (value < kGibi / 2) return fmt::format("{} ({:.2f} million)", count, value / kMega);
  return fmt::format("{} ({:.2f} * 2^30)", count, value / kGibi);
}

}  // namespace

std::string config_report(const TrainConfig& resolved, int world_size, const std::vector<Problem>& problems) {
  const ModelConfig& model = resolved.model;
  const ModelConfig::Counts counts = model.parameter_counts();
  std::string text =
      fmt::format("# Settings for {} rank{}, resolved.\n", world_size, world_size == 1 ? "" : "s");
  if (model.vocabulary > 0) {
    text += fmt::format("# Vocabulary, padded:  {}\n", model.vocabulary);
  } else {
    text +=
        "# Vocabulary: unknown, give --vocab-size or --tokenizer; the figures below are without embedding "
        "and output.\n";
  }
  text += fmt::format("# Parameters, total:   {}\n", parameters_text(counts.total));
  text += fmt::format("# Parameters, active:  {}\n", parameters_text(counts.active));
  text += fmt::format(
      "# FLOPs per token:     {:.4g} (forward and backward, active experts, causal attention as half)\n",
      model.flops_per_token());
  if (resolved.batch.global > 0)
    text += fmt::format("# Tokens per step:     {}\n", resolved.batch.global * model.seq_length);
  for (const Problem& problem : problems) {
    std::string message = problem.message;
    for (std::size_t at = 0; (at = message.find('\n', at)) != std::string::npos; at += 3)
      message.replace(at, 1, "\n# ");
    text += fmt::format("# To do before training: --{} {}\n", problem.flag, message);
  }
  return text + "\n" + to_text(resolved);
}

}  // namespace xmoe
