// The model against goldens of an independent PyTorch implementation (make_goldens.py beside this file):
// logits, every gradient, ten steps of training. Computed there in float64, here in f32 and, where a step
// does not depend on the one before, in bf16 and f16.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "comm/mesh.h"
#include "model/transformer.h"
#include "support/compare.h"
#include "support/device_test.h"
#include "train/checkpoint/safetensors.h"
#include "train/optimizer.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

using nlohmann::json;

constexpr double kTolerance = 1e-4;  // relative; f32 against f64
// Of bf16: a value is off by 2^-9 at most, and what two layers make of it adds up; most in the gradient of a
// router, which is made of differences between the outputs of experts.
constexpr double kBf16Tolerance = 5e-2;
// Three more bits of mantissa make an eighth of it.
constexpr double kF16Tolerance = kBf16Tolerance / 8.0;
constexpr double kF16Scale = 1024.0;  // of the loss: gradients stay above f16's subnormal numbers

struct Golden {
  explicit Golden(const std::filesystem::path& path) : file(path), memory({}, MemoryTag::workspace) {
    config = json::parse(file.metadata().at("config"));
  }
  Tensor read(const std::string& name) { return file.read(name, memory); }

  SafetensorsFile file;
  Arena memory;
  json config;
};

ModelConfig model_of(const json& golden) {
  const json& m = golden.at("model");
  const json& r = golden.at("router");
  const json& e = golden.at("moe");
  ModelConfig c;
  m.at("layers").get_to(c.layers);
  m.at("hidden").get_to(c.hidden);
  m.at("ffn_hidden").get_to(c.ffn_hidden);
  m.at("heads").get_to(c.heads);
  m.at("kv_heads").get_to(c.kv_heads);
  m.at("head_dim").get_to(c.head_dim);
  m.at("vocabulary").get_to(c.vocabulary);
  m.at("seq_length").get_to(c.seq_length);
  c.norm = m.at("norm") == "rms_norm" ? NormKind::rms_norm : NormKind::layer_norm;
  m.at("norm_epsilon").get_to(c.norm_epsilon);
  m.at("rotary_base").get_to(c.rotary_base);
  m.at("tied_embeddings").get_to(c.tied_embeddings);
  m.at("first_k_dense").get_to(c.first_k_dense);
  m.at("moe_layer_freq").get_to(c.moe_layer_freq);
  RouterConfig& router = c.moe.router;
  r.at("experts").get_to(router.experts);
  r.at("top_k").get_to(router.top_k);
  router.score_function =
      r.at("score_function") == "sigmoid" ? ScoreFunction::sigmoid : ScoreFunction::softmax;
  r.at("pre_softmax").get_to(router.pre_softmax);
  r.at("normalize_topk").get_to(router.normalize_topk);
  r.at("scaling_factor").get_to(router.scaling_factor);
  r.at("groups").get_to(router.groups);
  r.at("topk_groups").get_to(router.topk_groups);
  r.at("expert_bias").get_to(router.expert_bias);
  r.at("bias_update_rate").get_to(router.bias_update_rate);
  r.at("aux_loss_coeff").get_to(router.aux_loss_coeff);
  r.at("z_loss_coeff").get_to(router.z_loss_coeff);
  e.at("ffn_hidden").get_to(c.moe.ffn_hidden);
  e.at("shared_ffn_hidden").get_to(c.moe.shared_ffn_hidden);
  e.at("min_capacity").get_to(c.moe.min_capacity);
  c.moe.activation = e.at("activation") == "swiglu" ? Activation::swiglu : Activation::gelu;
  if (!e.at("capacity_factor").is_null()) c.moe.capacity_factor = e.at("capacity_factor").get<double>();
  c.resolve();
  return c;
}

OptimizerConfig optimizer_of(const json& golden) {
  const json& o = golden.at("optimizer");
  OptimizerConfig c;
  o.at("beta1").get_to(c.beta1);
  o.at("beta2").get_to(c.beta2);
  o.at("epsilon").get_to(c.epsilon);
  o.at("weight_decay").get_to(c.weight_decay);
  o.at("clip_grad").get_to(c.clip_grad);
  return c;
}

// ||a - b|| / ||b||; not a number if either holds one.
double relative_error(const std::vector<double>& a, const Tensor& b_there) {
  const std::vector<double> b = to_doubles(b_there);
  EXPECT_EQ(a.size(), b.size());
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

std::vector<std::int64_t> values(const Tensor& counts) {
  return {counts.data<std::int64_t>(), counts.data<std::int64_t>() + counts.numel()};
}

class Parity : public testing::TestWithParam<std::tuple<std::string, Device>> {
 protected:
  void SetUp() override {
    skip_unusable(device());
    if (!IsSkipped() && !HasFailure()) start(DType::f32);
  }

  static Device device() { return std::get<Device>(GetParam()); }

  // A model with the golden's initial weights.
  void start(DType dtype) {
    model.emplace(model_of(golden.config), dtype, mesh, 0, true, device());
    for (auto& p : model->parameters().all()) {
      const Tensor initial = golden.read("initial." + p.name);
      EXPECT_EQ(initial.shape(), p.value.shape()) << p.name;
      from_doubles(to_doubles(initial), p.value);
    }
    batch = golden.config.at("batch").get<std::int64_t>();
    const std::int64_t rows = batch * model->config().seq_length;
    tokens = golden.memory.tensor(DType::i32, {rows});
    targets = golden.memory.tensor(DType::i32, {rows});
    all_tokens = golden.read("tokens");
    load(0, tokens, targets);
  }

  void load(std::int64_t step, const Tensor& to_tokens, const Tensor& to_targets) const {
    const std::int64_t seq = model->config().seq_length;
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int32_t* row = all_tokens.data<std::int32_t>() + (step * batch + b) * (seq + 1);
      std::copy(row, row + seq, to_tokens.data<std::int32_t>() + b * seq);
      std::copy(row + 1, row + seq + 1, to_targets.data<std::int32_t>() + b * seq);
    }
  }

  void expect_logits(double tolerance) {
    const Tensor out = golden.memory.tensor(DType::f32, {tokens.dim(0), model->config().vocabulary});
    model->logits(tokens, batch, out);
    EXPECT_LT(relative_error(to_doubles(out), golden.read("logits")), tolerance);
  }

  void expect_gradients(double tolerance, double loss_scale = 1.0) {
    model->forward_backward(tokens, targets, batch, loss_scale);
    std::size_t compared = 0;
    for (const auto& p : model->parameters().all()) {
      if (!p.trainable) continue;
      std::vector<double> gradient = to_doubles(p.grad);
      for (double& g : gradient) g /= loss_scale;
      EXPECT_LT(relative_error(gradient, golden.read("gradient." + p.name)), tolerance) << p.name;
      ++compared;
    }
    std::size_t expected = 0;
    for (const auto& entry : golden.file.entries()) expected += entry.name.starts_with("gradient.") ? 1 : 0;
    EXPECT_EQ(compared, expected);
  }

  Golden golden{std::filesystem::path(XMOE_PARITY_DIR) / (std::get<0>(GetParam()) + ".safetensors")};
  std::unique_ptr<Communicator> world = make_self_communicator("world", device());
  Mesh mesh{*world, 1};
  std::optional<Transformer> model;
  std::int64_t batch = 0;
  Tensor tokens, targets, all_tokens;
};

TEST_P(Parity, Logits) { expect_logits(kTolerance); }

TEST_P(Parity, EveryGradient) { expect_gradients(kTolerance); }

// Where every expert is chosen: elsewhere rounding sends some token to another one, to another function.
TEST_P(Parity, InBf16) {
  if (std::get<0>(GetParam()) != "every_expert") return;
  start(DType::bf16);
  expect_logits(kBf16Tolerance);
  expect_gradients(kBf16Tolerance);
}

TEST_P(Parity, InF16WithAScaledLoss) {
  if (std::get<0>(GetParam()) != "every_expert") return;
  start(DType::f16);
  expect_logits(kF16Tolerance);
  expect_gradients(kF16Tolerance, kF16Scale);
}

TEST_P(Parity, TenStepsOfTraining) {
  Optimizer optimizer(optimizer_of(golden.config), model->parameters(), mesh);
  TrainingStep step(*model, optimizer, mesh, batch);
  const double rate = golden.config.at("optimizer").at("learning_rate").get<double>();
  const auto expect = [&](const char* name, std::int64_t i, double value) {
    const double wanted = static_cast<double>(golden.read(name).data<float>()[i]);
    EXPECT_NEAR(value, wanted, kTolerance * std::abs(wanted)) << name << " of step " << i;
  };
  const Tensor dropped = golden.read("dropped");
  const Tensor counts = golden.read("counts");
  const std::int64_t steps = golden.config.at("steps").get<std::int64_t>();
  for (std::int64_t i = 0; i < steps; ++i) {
    const StepResult r =
        step.run(1, rate, [&](std::int64_t, const Tensor& to_tokens, const Tensor& to_targets) {
          load(i, to_tokens, to_targets);
        });
    expect("lm_losses", i, r.lm_loss);
    expect("aux_losses", i, r.aux_loss);
    expect("z_losses", i, r.z_loss);
    expect("grad_norms", i, r.gradient_norm);
    EXPECT_EQ(values(model->expert_counts()), values(counts[i])) << "assignments per expert of step " << i;
    const double assignments =
        static_cast<double>(tokens.dim(0) * model->config().moe.router.top_k * model->expert_counts().dim(0));
    EXPECT_NEAR(r.dropped_fraction * assignments, static_cast<double>(dropped.data<std::int64_t>()[i]), 1e-6);
  }
  for (const auto& p : model->parameters().all()) {
    if (p.trainable) continue;
    EXPECT_LT(relative_error(to_doubles(p.value), golden.read("final." + p.name)), kTolerance) << p.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, Parity,
                         testing::Combine(testing::Values("softmax_rms_swiglu", "sigmoid_groups_bias",
                                                          "postsoftmax_dropping", "raw_softmax_groups",
                                                          "every_expert"),
                                          testing::ValuesIn(built_devices())),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<Device>(info.param).is_cpu() ? "_cpu" : "_gpu");
                         });

}  // namespace
}  // namespace xmoe
