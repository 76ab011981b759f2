// Construction of a model: which parameters it has, what they are called and how they start.
#include <cmath>

#include "model/memory.h"
#include "model/transformer.h"
#include "ops/elementwise/elementwise.h"
#include "ops/reduce/reduce.h"
#include "ops/rope/rope.h"

namespace xmoe {

namespace {

// Indices of a layer's parameters in the set, before they have memory.
struct LayerIndices {
  std::size_t attention_norm = 0, attention_norm_bias = 0, qkv = 0, attention_out = 0, mlp_norm = 0,
              mlp_norm_bias = 0;
  std::size_t w1 = 0, w2 = 0, router = 0, router_bias = 0, shared_w1 = 0, shared_w2 = 0;
};

class Declarations {
 public:
  Declarations(ParameterSet& set, const ModelConfig& config, DType dtype, const Placement& placement)
      : set_(set),
        config_(config),
        dtype_(dtype),
        placement_(placement),
        // Projections that end a residual branch start smaller, so that the stream's variance does not grow
        // with depth (GPT-2).
        output_std_(config.init_std / std::sqrt(2.0 * static_cast<double>(config.layers))) {}

  // Sizes of what lies one behind the other along an axis that is cut over the tensor-parallel group, each in
  // equal shares: queries, keys and values; gate and up rows.
  using Parts = std::vector<std::int64_t>;
  Parts preactivations(std::int64_t ffn) const {
    return config_.moe.activation == Activation::swiglu ? Parts{ffn, ffn} : Parts{ffn};
  }

  // Whole on every rank.
  std::size_t matrix(const std::string& name, const Shape& shape, bool ends_branch) {
    return weight(name, shape, {}, Replication::all, ends_branch);
  }
  std::size_t cut_matrix(const std::string& name, const Shape& shape, int axis, const Parts& parts,
                         bool ends_branch) {
    Sharding sharding;
    sharding.axes[static_cast<std::size_t>(axis)] = shares(parts);
    return weight(name, shape, sharding, Replication::tensor, ends_branch);
  }
  // Cut over the expert-parallel group along axis 0, and under TED along another.
  std::size_t expert_matrix(const std::string& name, const Shape& shape, int axis, const Parts& parts,
                            bool ends_branch) {
    Sharding sharding;
    sharding.axes[0] = {equal_part({0, shape[0]}, placement_.expert_rank, placement_.expert_size)};
    if (placement_.expert_tensor) sharding.axes[static_cast<std::size_t>(axis)] = shares(parts);
    return weight(name, shape, sharding, Replication::expert, ends_branch);
  }
  std::size_t vector(const std::string& name, float value) {
    return set_.declare({.name = name,
                         .global_shape = {config_.hidden},
                         .dtype = dtype_,
                         .init_value = value,
                         .decay = false,
                         .stage = stage});
  }
  std::size_t router(const std::string& name) {
    return set_.declare({.name = name,
                         .global_shape = {config_.moe.router.experts, config_.hidden},
                         .init_std = config_.init_std,
                         .stage = stage});
  }
  std::size_t router_bias(const std::string& name) {
    return set_.declare({.name = name,
                         .global_shape = {config_.moe.router.experts},
                         .decay = false,
                         .trainable = false,
                         .stage = stage});
  }

  // Of what is declared next: 0 the embedding, 1 + l layer l, then the final norm and the output.
  int stage = 0;

 private:
  std::vector<AxisRange> shares(const Parts& parts) const {
    std::vector<AxisRange> ranges;
    std::int64_t begin = 0;
    for (const std::int64_t size : parts) {
      ranges.push_back(equal_part({begin, size}, placement_.tensor_rank, placement_.tensor_size));
      begin += size;
    }
    return ranges;
  }
  std::size_t weight(const std::string& name, const Shape& shape, const Sharding& sharding,
                     Replication replication, bool ends_branch) {
    return set_.declare(
        {.name = name,
         .global_shape = shape,
         .sharding = sharding,
         .replication = replication,
         .dtype = dtype_,
         .gradient_dtype = replication == Replication::expert ? config_.expert_gradients : DType::f32,
         .init_std = ends_branch ? output_std_ : config_.init_std,
         .stage = stage});
  }

  ParameterSet& set_;
  const ModelConfig& config_;
  DType dtype_;
  const Placement& placement_;
  double output_std_;
};

LayerIndices declare_layer(Declarations& declare, const ModelConfig& c, std::int64_t index) {
  const std::string prefix = fmt::format("layers.{}.", index);
  const bool bias = c.norm == NormKind::layer_norm;
  const MoeConfig& m = c.moe;
  LayerIndices at;
  at.attention_norm = declare.vector(prefix + "attention_norm.weight", 1.0F);
  if (bias) at.attention_norm_bias = declare.vector(prefix + "attention_norm.bias", 0.0F);
  const std::int64_t q = c.heads * c.head_dim;
  const std::int64_t kv = c.kv_heads * c.head_dim;
  at.qkv = declare.cut_matrix(prefix + "attention.qkv", {q + 2 * kv, c.hidden}, 0, {q, kv, kv}, false);
  at.attention_out = declare.cut_matrix(prefix + "attention.out", {c.hidden, q}, 1, {q}, true);
  at.mlp_norm = declare.vector(prefix + "mlp_norm.weight", 1.0F);
  if (bias) at.mlp_norm_bias = declare.vector(prefix + "mlp_norm.bias", 0.0F);
  if (!c.is_moe_layer(index)) {
    at.w1 = declare.cut_matrix(prefix + "mlp.w1", {preactivation_width(m.activation, c.ffn_hidden), c.hidden},
                               0, declare.preactivations(c.ffn_hidden), false);
    at.w2 = declare.cut_matrix(prefix + "mlp.w2", {c.hidden, c.ffn_hidden}, 1, {c.ffn_hidden}, true);
    return at;
  }
  at.router = declare.router(prefix + "moe.router.weight");
  if (m.router.expert_bias) at.router_bias = declare.router_bias(prefix + "moe.router.bias");
  at.w1 = declare.expert_matrix(prefix + "moe.experts.w1",
                                {m.router.experts, preactivation_width(m.activation, m.ffn_hidden), c.hidden},
                                1, declare.preactivations(m.ffn_hidden), false);
  at.w2 = declare.expert_matrix(prefix + "moe.experts.w2", {m.router.experts, c.hidden, m.ffn_hidden}, 2,
                                {m.ffn_hidden}, true);
  if (m.shared_ffn_hidden > 0) {
    at.shared_w1 = declare.matrix(prefix + "moe.shared.w1",
                                  {preactivation_width(m.activation, m.shared_ffn_hidden), c.hidden}, false);
    at.shared_w2 = declare.matrix(prefix + "moe.shared.w2", {c.hidden, m.shared_ffn_hidden}, true);
  }
  return at;
}

struct ModelIndices {
  std::size_t embedding = 0, final_norm = 0, final_norm_bias = 0, output = 0;
  std::vector<LayerIndices> layers;
};

ModelIndices declare_model(ParameterSet& set, const ModelConfig& c, DType dtype, const Placement& placement) {
  Declarations declare(set, c, dtype, placement);
  const auto words = [&](const char* name) {
    return declare.cut_matrix(name, {c.vocabulary, c.hidden}, 0, {c.vocabulary}, false);
  };
  ModelIndices at;
  at.embedding = words("embedding.weight");
  for (std::int64_t l = 0; l < c.layers; ++l) {
    ++declare.stage;
    at.layers.push_back(declare_layer(declare, c, l));
  }
  ++declare.stage;
  at.final_norm = declare.vector("final_norm.weight", 1.0F);
  if (c.norm == NormKind::layer_norm) at.final_norm_bias = declare.vector("final_norm.bias", 0.0F);
  if (!c.tied_embeddings) at.output = words("output.weight");
  return at;
}

// A dense MLP is computed as a group of one expert.
Weight one_expert(const Weight& w) {
  const Shape shape = {1, w.value.dim(0), w.value.dim(1)};
  return {w.value.reshape(shape), w.grad.defined() ? w.grad.reshape(shape) : Tensor{}};
}

}  // namespace

ParameterSet plan_parameters(const ModelConfig& config, DType dtype, const Placement& placement) {
  ParameterSet set;
  declare_model(set, config, dtype, placement);
  set.lay_out(placement);
  return set;
}

Transformer::Transformer(const ModelConfig& config, DType dtype, Mesh& mesh,
                         std::optional<std::uint64_t> seed, bool train, const Device& device)
    : config_(config),
      dtype_(dtype),
      mesh_(mesh),
      values_(device, MemoryTag::parameters),
      gradients_(device, MemoryTag::gradients),
      saved_(device, MemoryTag::saved),
      workspace_(device, MemoryTag::workspace),
      host_({}, MemoryTag::workspace) {
  build_layers(seed, train);
}

void Transformer::build_layers(std::optional<std::uint64_t> seed, bool train) {
  const ModelConfig& c = config_;
  const bool bias = c.norm == NormKind::layer_norm;
  const ModelIndices indices = declare_model(parameters_, c, dtype_, placement_of(mesh_));
  parameters_.lay_out(placement_of(mesh_));
  values_.reserve(parameters_.value_bytes() + table_bytes(c));
  if (train) gradients_.reserve(parameters_.gradient_bytes());
  parameters_.allocate(values_, train ? &gradients_ : nullptr, mesh_, seed);

  embedding_ = parameters_.weight(indices.embedding);
  final_norm_ = parameters_.weight(indices.final_norm);
  if (bias) final_norm_bias_ = parameters_.weight(indices.final_norm_bias);
  if (!c.tied_embeddings) output_ = parameters_.weight(indices.output);
  projections_.emplace(embedding_, this->output(), mesh_.tp());
  rope_table_ = values_.tensor(DType::f32, {c.seq_length, c.head_dim});
  xmoe::rope_table(c.rotary_base, rope_table_);

  std::int64_t moe_layers = 0;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const LayerIndices& at = indices.layers[static_cast<std::size_t>(l)];
    Layer layer;
    layer.attention_norm = parameters_.weight(at.attention_norm);
    layer.mlp_norm = parameters_.weight(at.mlp_norm);
    if (bias) {
      layer.attention_norm_bias = parameters_.weight(at.attention_norm_bias);
      layer.mlp_norm_bias = parameters_.weight(at.mlp_norm_bias);
    }
    layer.attention.emplace(parameters_.weight(at.qkv), parameters_.weight(at.attention_out), mesh_.tp());
    if (c.is_moe_layer(l)) {
      MoeWeights weights;
      weights.router = parameters_.weight(at.router);
      if (c.moe.router.expert_bias) {
        weights.router_bias = parameters_.weight(at.router_bias).value;
        router_biases_.push_back(weights.router_bias);
      }
      weights.experts_w1 = parameters_.weight(at.w1);
      weights.experts_w2 = parameters_.weight(at.w2);
      if (c.moe.shared_ffn_hidden > 0) {
        weights.shared_w1 = one_expert(parameters_.weight(at.shared_w1));
        weights.shared_w2 = one_expert(parameters_.weight(at.shared_w2));
      }
      layer.moe = std::make_unique<MoeLayer>(c.moe, weights, mesh_,
                                             MoeRecompute{.experts = c.recompute.moe || c.recompute.layer,
                                                          .shared = c.recompute.mlp || c.recompute.layer});
      layer.moe_index = moe_layers++;
    } else {
      layer.mlp.emplace(c.moe.activation, one_expert(parameters_.weight(at.w1)),
                        one_expert(parameters_.weight(at.w2)), mesh_.tp());
    }
    layers_.push_back(std::move(layer));
  }
  if (moe_layers > 0) {
    const std::int64_t experts = c.moe.router.experts;
    router_sums_ = values_.zeros(DType::f32, {moe_layers, experts + 1});
    router_counts_ = values_.zeros(DType::i64, {moe_layers, experts});
    router_gradients_ = values_.zeros(DType::f32, {moe_layers, experts});
    host_sums_ = host_.zeros(DType::f32, router_sums_.shape());
    host_counts_ = host_.zeros(DType::i64, router_counts_.shape());
    host_gradients_ = host_.zeros(DType::f32, router_gradients_.shape());
    counts_total_ = host_.zeros(DType::i64, router_counts_.shape());
  }
}

std::optional<Transformer::Place> Transformer::locate_non_finite() const {
  XMOE_CHECK(experts_accumulation_ == Accumulation::add, "no gradients since they were cleared");
  Arena scratch(workspace_.device(), MemoryTag::workspace);
  const Context ctx{scratch};
  const auto finite = [&](const Tensor& t) {
    const ArenaScope scope(scratch);
    Tensor wide = t;
    if (t.dtype() == DType::f16) {
      wide = scratch.tensor(DType::f32, t.shape());
      convert(ctx, t, wide);
    }
    return std::isfinite(sum_of_squares(ctx, wide));
  };
  std::int64_t stage = 0;
  std::optional<Place> found;
  // Every call is a stage, on ranks that have nothing to check as well.
  const auto is_here = [&](const Tensor& t, const std::string& name) {
    if (t.defined() && !finite(t)) found = Place{stage, name};
    ++stage;
    return found.has_value();
  };
  std::string stream = "the embedding";
  for (std::size_t l = 0; l < kept_.size(); ++l) {
    if (is_here(kept_[l].x, stream)) return found;
    if (is_here(kept_[l].middle, fmt::format("the output of attention in layer {}", l))) return found;
    if (is_here(kept_[l].moe.logits, fmt::format("the router logits of layer {}", l))) return found;
    stream = fmt::format("the output of layer {}", l);
  }
  if (is_here(last_, stream)) return found;
  // Backward runs from the last parameter to the first.
  const auto all = parameters_.all();
  for (std::size_t i = all.size(); i-- > 0;)
    if (is_here(all[i].grad, fmt::format("the gradient of {}", all[i].name))) return found;
  return std::nullopt;
}

}  // namespace xmoe
