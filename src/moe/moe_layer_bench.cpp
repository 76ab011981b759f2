// A whole MoE layer, forward and backward in one process: router, PFT, gather, experts, combine. The figure
// counts the experts' FLOPs only; the bound is the time of their products run densely with rows split evenly.
// Real routing is uneven: weights are random.
#include "base/rng.h"
#include "bench/support/bench.h"
#include "bench/support/expert_bound.h"
#include "moe/layer.h"

namespace xmoe {

namespace {

struct LayerShape {
  std::int64_t tokens, hidden, ffn, experts, top_k;
};

// The layer with its memory.
class LayerRun {
 public:
  LayerRun(const LayerShape& s, const MoeConfig& config, DType dtype)
      : self_(make_self_communicator()),
        mesh_(*self_, 1),
        memory_({}, MemoryTag::parameters),
        saved_({}, MemoryTag::saved),
        workspace_({}, MemoryTag::workspace) {
    const std::int64_t width = preactivation_width(config.activation, s.ffn);
    MoeWeights w;
    w.router = weight({s.experts, s.hidden}, DType::f32, 1.0);
    w.experts_w1 = weight({s.experts, width, s.hidden}, dtype, 0.05);
    w.experts_w2 = weight({s.experts, s.hidden, s.ffn}, dtype, 0.05);
    x_ = filled({s.tokens, s.hidden}, dtype, 1.0);
    dy_ = filled({s.tokens, s.hidden}, dtype, 1.0);
    y_ = memory_.zeros(dtype, x_.shape());
    dx_ = memory_.zeros(dtype, x_.shape());
    sums_ = {memory_.zeros(DType::f32, {s.experts}), memory_.zeros(DType::i64, {s.experts}),
             memory_.zeros(DType::f32, {1})};
    layer_ = std::make_unique<MoeLayer>(config, w, mesh_);
  }
  void step() {
    const Context ctx{workspace_};
    saved_.clear();
    MoeSaved kept;
    layer_->forward(ctx, saved_, x_, y_, sums_, kept);
    layer_->backward(ctx, dy_, x_, kept, {}, dx_);
    kept_bytes_ = kept.bytes();
  }
  std::size_t kept_bytes() const { return kept_bytes_; }

 private:
  Tensor filled(const Shape& shape, DType dtype, double deviation) {
    const Tensor t = memory_.tensor(dtype, shape);
    fill_random(t, normal(deviation), Rng(1, std::to_string(memory_.in_use())));
    return t;
  }
  Weight weight(const Shape& shape, DType dtype, double deviation) {
    return {filled(shape, dtype, deviation), memory_.zeros(DType::f32, shape)};
  }

  std::unique_ptr<Communicator> self_;
  Mesh mesh_;
  Arena memory_, saved_, workspace_;
  Tensor x_, dy_, y_, dx_;
  RouterSums sums_;
  std::unique_ptr<MoeLayer> layer_;
  std::size_t kept_bytes_ = 0;
};

MoeConfig config_of(const LayerShape& s, Activation activation) {
  MoeConfig c;
  c.router.experts = s.experts;
  c.router.top_k = s.top_k;
  c.router.pre_softmax = true;
  c.ffn_hidden = s.ffn;
  c.activation = activation;
  return c;
}

std::string name_of_shape(const LayerShape& s, Activation activation) {
  return fmt::format("T {} H {} I {} E {} k {} {}", s.tokens, s.hidden, s.ffn, s.experts, s.top_k,
                     activation == Activation::gelu ? "gelu" : "swiglu");
}

XMOE_BENCHMARK(moe_layer) {
  for (const LayerShape& s : {LayerShape{4096, 512, 256, 32, 4}, LayerShape{2048, 1024, 704, 64, 6}}) {
    for (const auto activation : {Activation::swiglu, Activation::gelu}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const std::int64_t rows = s.tokens * s.top_k;
        const ExpertBound bound = expert_bound(rows, s.hidden, s.ffn, s.experts, activation, dtype);
        const double flops =
            6.0 * static_cast<double>(rows * s.hidden * (preactivation_width(activation, s.ffn) + s.ffn));
        LayerRun run(s, config_of(s, activation), dtype);
        bench.compute_bound("moe_layer", name_of_shape(s, activation), dtype, flops,
                            flops / (bound.forward_seconds + bound.backward_seconds) * 1e-9,
                            [&] { run.step(); });
      }
    }
  }
}

}  // namespace
}  // namespace xmoe
