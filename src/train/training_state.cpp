#include "train/training_state.h"

#include <nlohmann/json.hpp>
#include <type_traits>

#include "base/error.h"

namespace xmoe {

namespace {

using nlohmann::json;

// Calls f(flag, field) for every field that defines the model. Dispatchers and coefficients of losses do not:
// they may change when training goes on.
template <typename Config, typename F>
void for_each_field(Config& c, F&& f) {
  f("num-layers", c.layers);
  f("hidden-size", c.hidden);
  f("ffn-hidden-size", c.ffn_hidden);
  f("num-attention-heads", c.heads);
  f("num-query-groups", c.kv_heads);
  f("kv-channels", c.head_dim);
  f("vocabulary", c.vocabulary);
  f("seq-length", c.seq_length);
  f("normalization", c.norm);
  f("norm-epsilon", c.norm_epsilon);
  f("rotary-base", c.rotary_base);
  f("tied-embeddings", c.tied_embeddings);
  f("moe-first-k-dense", c.first_k_dense);
  f("moe-layer-freq", c.moe_layer_freq);
  f("num-experts", c.moe.router.experts);
  f("moe-router-topk", c.moe.router.top_k);
  f("moe-router-score-function", c.moe.router.score_function);
  f("moe-router-pre-softmax", c.moe.router.pre_softmax);
  f("moe-router-norm-topk-prob", c.moe.router.normalize_topk);
  f("moe-router-topk-scaling-factor", c.moe.router.scaling_factor);
  f("moe-router-num-groups", c.moe.router.groups);
  f("moe-router-group-topk", c.moe.router.topk_groups);
  f("moe-router-enable-expert-bias", c.moe.router.expert_bias);
  f("moe-ffn-hidden-size", c.moe.ffn_hidden);
  f("moe-shared-expert-intermediate-size", c.moe.shared_ffn_hidden);
  f("swiglu", c.moe.activation);
}

template <typename T>
json encode(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else {
    return value;
  }
}

template <typename T>
void decode(const json& from, T& to) {
  if constexpr (std::is_enum_v<T>) {
    to = static_cast<T>(from.get<int>());
  } else {
    from.get_to(to);
  }
}

json encode_model(const ModelConfig& model) {
  json fields = json::object();
  for_each_field(model, [&](const char* name, const auto& field) { fields[name] = encode(field); });
  return fields;
}

}  // namespace

std::string to_json(const TrainingState& s) {
  const json text = {{"iteration", s.iteration},
                     {"consumed_samples", s.consumed_samples},
                     {"optimizer_steps", s.optimizer_steps},
                     {"skipped_iterations", s.skipped_iterations},
                     {"seed", s.seed},
                     {"compute_dtype", static_cast<int>(s.compute_dtype)},
                     {"vocab_size", s.vocab_size},
                     {"split", s.split},
                     {"data_fingerprint", s.data_fingerprint},
                     {"model", encode_model(s.model)}};
  return text.dump(2);
}

TrainingState training_state_from_json(const std::string& text, const std::string& source) {
  TrainingState s;
  try {
    const json from = json::parse(text);
    from.at("iteration").get_to(s.iteration);
    from.at("consumed_samples").get_to(s.consumed_samples);
    from.at("optimizer_steps").get_to(s.optimizer_steps);
    from.at("skipped_iterations").get_to(s.skipped_iterations);
    from.at("seed").get_to(s.seed);
    decode(from.at("compute_dtype"), s.compute_dtype);
    from.at("vocab_size").get_to(s.vocab_size);
    from.at("split").get_to(s.split);
    from.at("data_fingerprint").get_to(s.data_fingerprint);
    const json& model = from.at("model");
    for_each_field(s.model, [&](const char* name, auto& field) { decode(model.at(name), field); });
  } catch (const json::exception& error) {
    fail(
        "{}: the training state in this checkpoint cannot be read ({}); it was written by another version or "
        "is damaged: load another checkpoint",
        source, error.what());
  }
  return s;
}

std::vector<std::string> model_differences(const ModelConfig& checkpoint, const ModelConfig& here) {
  const json a = encode_model(checkpoint);
  const json b = encode_model(here);
  std::vector<std::string> differences;
  for (const auto& [name, value] : a.items())
    if (value != b.at(name))
      differences.push_back(
          fmt::format("--{}: {} in the checkpoint, {} here", name, value.dump(), b.at(name).dump()));
  return differences;
}

}  // namespace xmoe
