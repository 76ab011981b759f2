#include "train/evaluate.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/timer.h"
#include "data/tokenizer/tokenizer.h"
#include "train/checkpointing.h"
#include "train/flag_table.h"
#include "train/start_up.h"
#include "train/together.h"
#include "train/training_data.h"
#include "train/validation.h"

namespace xmoe {

namespace {

// The weights of a split that consists of the wanted part alone, or of the training's split.
std::pair<SplitWeights, Split> part_of(const EvalConfig& config, const TrainingState& state) {
  if (config.part == DataPart::all) return {SplitWeights{1.0, 0.0, 0.0}, Split::train};
  SplitWeights weights = config.split.value_or(state.config.data.split);
  const double sum = weights[0] + weights[1] + weights[2];
  for (double& w : weights) w /= sum;
  return {weights, static_cast<Split>(config.part)};
}

}  // namespace

void run_evaluation(const EvalConfig& config, Communicator& world) {
  const OpenCheckpoint checkpoint = open_checkpoint(config.load, config.iteration, world);
  const TrainConfig& trained = checkpoint.state.config;
  const std::string directory = checkpoint.manifest.directory.string();
  std::optional<EvaluationWindows> windows;
  std::string read;
  together(world, [&] {
    const auto tokenizer = load_tokenizer(checkpoint, config.tokenizer);
    const auto [weights, split] = part_of(config, checkpoint.state);
    const DataBlend blend = open_data(config.sources);
    windows.emplace(blend, weights, split, trained.model.seq_length, trained.data.vocab_size,
                    tokenizer ? tokenizer->byte_lengths() : std::vector<std::int32_t>());
    read = fmt::format("data {}, {} windows, tokenizer {:016x}", data_fingerprint(blend), windows->count(),
                       tokenizer ? hash64(tokenizer->json()) : 0);
  });
  expect_same(world, "what is evaluated", read, "Give all ranks the same data and tokenizer");
  fail_if_any(model_layout_problems(trained.model, config.layout, world.size()));
  ParallelRun parallel(world, config.device, config.layout, config.ranks_per_node, config.timeout_minutes);
  Transformer model(model_to_run(trained.model), config.compute_dtype.value_or(trained.compute_dtype),
                    parallel.mesh, /*seed=*/std::nullopt, /*train=*/false, parallel.device);
  load_weights(checkpoint.manifest, model, world);

  const Timer timer;
  Progress progress("evaluating", windows->count(), "windows");
  const ValidationResult r =
      validate_model(model, parallel.mesh, *windows, config.micro_batch, config.iterations, &progress);
  progress.finish();
  if (world.rank() != 0) return;
  const auto bits = r.bits_per_byte();
  fmt::print(
      "checkpoint:    {}\ntokens:        {}\nloss:          {:.4f} nats per token\nperplexity:    {:.2f}\n",
      directory, r.tokens, r.mean_loss(), r.perplexity());
  if (bits) fmt::print("bits per byte: {:.4f}\n", *bits);
  fmt::print("speed:         {:.0f} tokens per second\n", static_cast<double>(r.tokens) / timer.seconds());
  if (!config.output.empty()) {
    nlohmann::json result = {{"checkpoint", directory}, {"iteration", checkpoint.manifest.iteration},
                             {"tokens", r.tokens},      {"bytes", r.bytes},
                             {"loss", r.mean_loss()},   {"perplexity", r.perplexity()}};
    if (bits) result["bits_per_byte"] = *bits;
    write_file_atomically(config.output, result.dump(2) + "\n");
  }
}

}  // namespace xmoe
