// A whole MoE layer in one process: router, PFT, gather, experts, combine; forward, and forward with
// backward. The figures count the experts' FLOPs only, and the bound is that of the experts
// (expert_bound.h). Real routing is uneven: weights are random. Gradients of the experts' weights are
// written, as in the first micro-batch of a step.
//
// `kept` is what backward needs, the layer's input included, beside the input and pre-activations alone.
#include "bench/support/bench.h"
#include "bench/support/expert_bound.h"
#include "bench/support/random_blocks.h"
#include "moe/layer.h"

namespace xmoe {

namespace {

// The layer with its memory.
class LayerRun {
 public:
  LayerRun(const ExpertShape& s, const MoeConfig& config, DType dtype, const Device& device)
      : self_(make_self_communicator("self", device)),
        mesh_(*self_, 1),
        memory_(device, MemoryTag::parameters),
        saved_(device, MemoryTag::saved),
        workspace_(device, MemoryTag::workspace) {
    MoeWeights w;
    w.router = weight({s.experts, s.hidden}, DType::f32, 1.0);
    w.experts_w1 = weight({s.experts, s.width(), s.hidden}, dtype, 0.05);
    w.experts_w2 = weight({s.experts, s.hidden, s.ffn}, dtype, 0.05);
    x_ = filled({s.tokens, s.hidden}, dtype, 1.0);
    dy_ = filled({s.tokens, s.hidden}, dtype, 1.0);
    y_ = memory_.zeros(dtype, x_.shape());
    dx_ = memory_.zeros(dtype, x_.shape());
    sums_ = {memory_.zeros(DType::f32, {s.experts}), memory_.zeros(DType::i64, {s.experts}),
             memory_.zeros(DType::f32, {1})};
    layer_ = std::make_unique<MoeLayer>(config, w, mesh_);
  }
  void forward() {
    saved_.clear();
    kept_ = {};
    layer_->forward({workspace_}, saved_, x_, y_, sums_, kept_);
  }
  void step() {
    forward();
    layer_->backward({workspace_}, dy_, x_, kept_, {}, dx_, Accumulation::write);
  }
  std::size_t kept_bytes() const { return kept_.bytes() + x_.bytes(); }

 private:
  Tensor filled(const Shape& shape, DType dtype, double deviation) {
    const Tensor t = memory_.tensor(dtype, shape);
    fill_random_blocks(t, normal(deviation), std::to_string(memory_.in_use()));
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
  MoeSaved kept_;
};

MoeConfig config_of(const ExpertShape& s) {
  MoeConfig c;
  c.router.experts = s.experts;
  c.router.top_k = s.top_k;
  c.router.pre_softmax = true;
  c.ffn_hidden = s.ffn;
  c.activation = s.activation;
  return c;
}

void measure(Bench& bench, const ExpertShape& s, DType dtype) {
  const ExpertBound bound = expert_bound(s, dtype, bench.device());
  const double forward = s.forward_flops();
  LayerRun run(s, config_of(s), dtype, bench.device());
  bench.compute_bound("moe_layer.forward", s.name(), dtype, forward, forward / bound.forward_seconds * 1e-9,
                      [&] { run.forward(); });
  bench.compute_bound("moe_layer.step", s.name(), dtype, 3.0 * forward,
                      3.0 * forward / (bound.forward_seconds + bound.backward_seconds) * 1e-9,
                      [&] { run.step(); });
  const auto least =
      static_cast<double>(s.tokens * s.hidden + s.rows() * s.width()) * static_cast<double>(size_of(dtype));
  bench.add({"moe_layer.kept", s.name(), std::string(name_of(dtype)),
             static_cast<double>(run.kept_bytes()) * 1e-6, "MB", least * 1e-6});
}

XMOE_BENCHMARK(moe_layer) {
  constexpr auto kGelu = Activation::gelu;
  constexpr auto kSwiglu = Activation::swiglu;
  if (bench.device().is_cpu()) {
    for (const ExpertShape& s :
         {ExpertShape{4096, 512, 256, 32, 4, kSwiglu}, ExpertShape{4096, 512, 256, 32, 4, kGelu},
          ExpertShape{2048, 1024, 704, 64, 6, kSwiglu}, ExpertShape{2048, 1024, 704, 64, 6, kGelu}})
      for (const DType dtype : {DType::f32, DType::bf16})
        if (bench.wants(s.name())) measure(bench, s, dtype);
    return;
  }
  for (const ExpertShape& s : large_expert_shapes())
    if (bench.wants(s.name())) measure(bench, s, DType::bf16);
}

}  // namespace
}  // namespace xmoe
