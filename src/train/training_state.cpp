#include "train/training_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/flags.h"

namespace xmoe {

namespace {

using nlohmann::json;

// The model without the settings that change nothing in it. Of a dense model these are those of experts;
// `dense` says whether to leave them out here, too, because the other model is.
ModelConfig effective(const ModelConfig& model, bool dense) {
  ModelConfig result = model;
  if (dense) {
    result.moe = {};
    result.moe.activation = model.moe.activation;  // of dense layers, too
    result.moe.router.experts = model.moe.router.experts;
    result.first_k_dense = 0;
    result.moe_layer_freq = 1;
  }
  bool has_dense_layer = dense;
  for (std::int64_t l = 0; l < model.layers; ++l) has_dense_layer |= !model.is_moe_layer(l);
  if (!has_dense_layer) result.ffn_hidden = 0;
  return result;
}

}  // namespace

std::string to_json(const TrainingState& s) {
  json text = {{"iteration", s.iteration},
               {"consumed_samples", s.consumed_samples},
               {"optimizer_steps", s.optimizer_steps},
               {"skipped_iterations", s.skipped_iterations},
               {"scheduled_samples", s.scheduled_samples},
               {"data_fingerprint", s.data_fingerprint},
               {"settings", to_text(s.config)}};
  if (s.loss_scaler)
    text["loss_scaler"] = {{"scale", s.loss_scaler->scale},
                           {"growth_tracker", s.loss_scaler->growth_tracker},
                           {"hysteresis_tracker", s.loss_scaler->hysteresis_tracker}};
  // A path that is no UTF-8 must not keep a checkpoint from being written: it is there for the reader only.
  return text.dump(2, ' ', false, json::error_handler_t::replace);
}

TrainingState training_state_from_json(const std::string& text, const std::string& source) {
  TrainingState s;
  try {
    const json from = json::parse(text);
    from.at("iteration").get_to(s.iteration);
    from.at("consumed_samples").get_to(s.consumed_samples);
    from.at("optimizer_steps").get_to(s.optimizer_steps);
    from.at("skipped_iterations").get_to(s.skipped_iterations);
    // Older checkpoints have no account of their own: their schedule went on where iterations were skipped.
    s.scheduled_samples = from.value("scheduled_samples", s.consumed_samples);
    if (from.contains("loss_scaler")) {
      const json& scaler = from.at("loss_scaler");
      LossScaler::State& state = s.loss_scaler.emplace();
      scaler.at("scale").get_to(state.scale);
      scaler.at("growth_tracker").get_to(state.growth_tracker);
      scaler.at("hysteresis_tracker").get_to(state.hysteresis_tracker);
      if (!(state.scale > 0.0)) fail("its loss scale is {}", state.scale);
    }
    from.at("data_fingerprint").get_to(s.data_fingerprint);
    s.config = train_config_from_text(from.at("settings").get<std::string>(), source);
    const ModelConfig& m = s.config.model;
    if (std::min({m.layers, m.hidden, m.heads, m.seq_length, s.config.data.vocab_size}) <= 0)
      fail("its settings describe no model");
  } catch (const std::exception& error) {  // of the JSON, or of the settings in it
    fail(
        "{}: the training state in this checkpoint cannot be read ({}); it was written by another version or "
        "is damaged: load another checkpoint",
        source, error.what());
  }
  // The rows of the embedding are not in the text; all else was resolved when it was saved, for any number of
  // ranks.
  s.config.resolve(1);
  return s;
}

std::vector<std::string> model_differences(const TrainConfig& checkpoint, const TrainConfig& here) {
  const bool dense = checkpoint.model.moe.router.experts == 0 || here.model.moe.router.experts == 0;
  TrainConfig a;
  TrainConfig b;
  a.model = effective(checkpoint.model, dense);
  b.model = effective(here.model, dense);
  const FlagTable table_a = train_flags(a);
  const FlagTable table_b = train_flags(b);
  std::vector<std::string> differences;
  for (std::size_t i = 0; i < table_a.flags().size(); ++i) {
    const Flag& flag = table_a.flags()[i];
    if (flag.role != FlagRole::model || !flag.show) continue;
    const std::string value = flag.show();
    const std::string other = table_b.flags()[i].show();
    if (value != other)
      differences.push_back(
          fmt::format("--{}: {} in the checkpoint, {} here", flag.names.front(), value, other));
  }
  if (a.model.vocabulary != b.model.vocabulary)
    differences.push_back(fmt::format(
        "rows of the embedding (--vocab-size or the tokenizer, --make-vocab-size-divisible-by): {} in the "
        "checkpoint, {} here",
        a.model.vocabulary, b.model.vocabulary));
  return differences;
}

}  // namespace xmoe
