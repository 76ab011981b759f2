// A training step of the demo's model in one process on all cores: forward, backward, optimizer. The bound is
// the time of its matrix products, each through the vendor's library in the best way it has for the shape,
// and of the products of attention.
#include "base/file.h"
#include "base/rng.h"
#include "bench/support/attention_bound.h"
#include "bench/support/bench.h"
#include "bench/support/expert_bound.h"
#include "bench/support/gemm_bound.h"
#include "comm/mesh.h"
#include "train/flags.h"
#include "train/training_step.h"

namespace xmoe {

namespace {

constexpr std::int64_t kSequences = 8;
constexpr std::int64_t kVocabulary = 4096;

// Forward and both gradients of y = x W^T, x [m, k], W [n, k].
double projection_seconds(std::int64_t m, std::int64_t n, std::int64_t k, DType dtype) {
  const double flops = 2.0 * static_cast<double>(m * n * k) * 1e-9;
  return flops / gemm_bound(m, n, k, dtype, dtype, {.b = Transpose::yes}) +
         flops / gemm_bound(m, k, n, dtype, dtype) +
         flops / gemm_bound(n, k, m, dtype, DType::f32, {.a = Transpose::yes, .accumulate = true});
}

double bound_seconds(const ModelConfig& c, DType dtype) {
  const std::int64_t t = kSequences * c.seq_length;
  const AttentionShape a{.batch = kSequences,
                         .seq = c.seq_length,
                         .heads = c.heads,
                         .kv_heads = c.kv_heads,
                         .head_dim = c.head_dim};
  double seconds = projection_seconds(t, c.vocabulary, c.hidden, dtype);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    seconds += projection_seconds(t, a.qkv_width(), c.hidden, dtype) +
               projection_seconds(t, c.hidden, c.heads * c.head_dim, dtype);
    seconds += a.forward_flops() * 1e-9 / attention_forward_bound(a, dtype) +
               2.5 * a.forward_flops() * 1e-9 / attention_backward_bound(a, dtype);
    const auto mlp = [&](std::int64_t rows, std::int64_t ffn, std::int64_t experts) {
      const ExpertBound b = expert_bound({rows, c.hidden, ffn, experts, 1, c.moe.activation}, dtype);
      return b.forward_seconds + b.backward_seconds;
    };
    if (!c.is_moe_layer(l)) {
      seconds += mlp(t, c.ffn_hidden, 1);
      continue;
    }
    seconds += mlp(t * c.moe.router.top_k, c.moe.ffn_hidden, c.moe.router.experts) +
               projection_seconds(t, c.moe.router.experts, c.hidden, DType::f32);
    if (c.moe.shared_ffn_hidden > 0) seconds += mlp(t, c.moe.shared_ffn_hidden, 1);
  }
  return seconds;
}

XMOE_BENCHMARK(training_step) {
  const std::string path = XMOE_SOURCE_DIR "/configs/models/demo.toml";
  TrainConfig config = train_config_from_text(read_text_file(path), path);
  config.model.vocabulary = kVocabulary;
  config.model.resolve();
  const ModelConfig& c = config.model;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double bound = bound_seconds(c, dtype);
    const auto self = make_self_communicator();
    Mesh mesh(*self, 1);
    Transformer model(c, dtype, mesh, 1, true);
    Optimizer optimizer(config.optimizer, model.parameters(), mesh);
    TrainingStep step(model, optimizer, mesh, kSequences);
    std::uint64_t number = 0;
    double flops = 0.0;
    const auto run = [&] {
      const StepResult r = step.run(1, 1e-4, [&](std::int64_t, const Tensor& tokens, const Tensor& targets) {
        const Rng rng(++number, "tokens");
        for (std::int64_t i = 0; i < tokens.dim(0); ++i) {
          tokens.data<std::int32_t>()[i] =
              static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(i), kVocabulary));
          targets.data<std::int32_t>()[i] = tokens.data<std::int32_t>()[i];
        }
      });
      flops = r.useful_flops;
    };
    run();
    bench.compute_bound("training_step", fmt::format("demo model, {} x {} tokens", kSequences, c.seq_length),
                        dtype, flops, flops / bound * 1e-9, run);
  }
}

}  // namespace
}  // namespace xmoe
