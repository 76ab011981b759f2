// A whole MoE layer in one process: router, PFT, gather, experts, combine; forward, and forward with
// backward. The figures count the experts' FLOPs only. The bound is the time of as many FLOPs in dense
// products: on the CPU each expert's own with rows split evenly, on a GPU all rows with one matrix, the best
// that the library can do. Real routing is uneven: weights are random.
//
// `kept` is what backward needs, the layer's input included, beside the input and pre-activations alone.
#include "bench/support/bench.h"
#include "bench/support/expert_bound.h"
#include "bench/support/random_blocks.h"
#include "moe/layer.h"

namespace xmoe {

namespace {

struct LayerShape {
  std::int64_t tokens, hidden, ffn, experts, top_k;
  Activation activation;

  std::int64_t rows() const { return tokens * top_k; }
  std::int64_t width() const { return preactivation_width(activation, ffn); }
  double forward_flops() const { return 2.0 * static_cast<double>(rows() * hidden * (width() + ffn)); }
};

// The layer with its memory.
class LayerRun {
 public:
  LayerRun(const LayerShape& s, const MoeConfig& config, DType dtype, const Device& device)
      : self_(make_self_communicator()),
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
    layer_->backward({workspace_}, dy_, x_, kept_, {}, dx_);
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

MoeConfig config_of(const LayerShape& s) {
  MoeConfig c;
  c.router.experts = s.experts;
  c.router.top_k = s.top_k;
  c.router.pre_softmax = true;
  c.ffn_hidden = s.ffn;
  c.activation = s.activation;
  return c;
}

// All rows with one matrix.
ExpertBound dense_bound(const LayerShape& s, DType dtype, const Device& device) {
  Arena arena(device, MemoryTag::saved);
  Arena workspace(device, MemoryTag::workspace);
  const auto filled = [&](std::int64_t rows, std::int64_t columns) {
    const Tensor t = arena.tensor(dtype, {rows, columns});
    fill_random_blocks(t, normal(0.1), "bound");
    return t;
  };
  const Tensor x = filled(s.rows(), s.hidden);
  const Tensor h = filled(s.rows(), s.width());
  const Tensor a = filled(s.rows(), s.ffn);
  const Tensor w1 = filled(s.width(), s.hidden);
  const Tensor w2 = filled(s.hidden, s.ffn);
  const Tensor y = arena.tensor(dtype, x.shape());
  const Tensor dw1 = arena.zeros(DType::f32, w1.shape());
  const Tensor dw2 = arena.zeros(DType::f32, w2.shape());
  const auto seconds = [&](const Tensor& left, const Tensor& right, const Tensor& out,
                           const GemmOptions& options) {
    return Bench::seconds([&] { gemm({workspace}, left, right, out, options); }, device);
  };
  ExpertBound bound;
  bound.forward_seconds = seconds(x, w1, h, kTimesTransposed) + seconds(a, w2, y, kTimesTransposed);
  bound.backward_seconds = seconds(x, w2, a, {}) + seconds(h, w1, y, {}) +
                           seconds(h, x, dw1, kAccumulateTransposed) +
                           seconds(x, a, dw2, kAccumulateTransposed);
  return bound;
}

void measure(Bench& bench, const LayerShape& s, DType dtype) {
  const std::string shape = fmt::format("T {} H {} I {} E {} k {} {}", s.tokens, s.hidden, s.ffn, s.experts,
                                        s.top_k, s.activation == Activation::gelu ? "gelu" : "swiglu");
  const ExpertBound bound = bench.device().is_cpu()
                                ? expert_bound(s.rows(), s.hidden, s.ffn, s.experts, s.activation, dtype)
                                : dense_bound(s, dtype, bench.device());
  const double forward = s.forward_flops();
  LayerRun run(s, config_of(s), dtype, bench.device());
  bench.compute_bound("moe_layer.forward", shape, dtype, forward, forward / bound.forward_seconds * 1e-9,
                      [&] { run.forward(); });
  bench.compute_bound("moe_layer.step", shape, dtype, 3.0 * forward,
                      3.0 * forward / (bound.forward_seconds + bound.backward_seconds) * 1e-9,
                      [&] { run.step(); });
  const auto least =
      static_cast<double>(s.tokens * s.hidden + s.rows() * s.width()) * static_cast<double>(size_of(dtype));
  bench.add({"moe_layer.kept", shape, std::string(name_of(dtype)),
             static_cast<double>(run.kept_bytes()) * 1e-6, "MB", least * 1e-6});
}

XMOE_BENCHMARK(moe_layer) {
  constexpr auto kGelu = Activation::gelu;
  constexpr auto kSwiglu = Activation::swiglu;
  if (bench.device().is_cpu()) {
    for (const LayerShape& s :
         {LayerShape{4096, 512, 256, 32, 4, kSwiglu}, LayerShape{4096, 512, 256, 32, 4, kGelu},
          LayerShape{2048, 1024, 704, 64, 6, kSwiglu}, LayerShape{2048, 1024, 704, 64, 6, kGelu}})
      for (const DType dtype : {DType::f32, DType::bf16}) measure(bench, s, dtype);
    return;
  }
  for (const LayerShape& s :
       {LayerShape{16384, 2048, 1408, 64, 6, kGelu}, LayerShape{16384, 2048, 1408, 64, 6, kSwiglu},
        LayerShape{8192, 7168, 2048, 4, 1, kGelu}, LayerShape{24576, 1536, 256, 128, 8, kSwiglu},
        LayerShape{16384, 2048, 768, 128, 8, kSwiglu}, LayerShape{32768, 4096, 1024, 128, 8, kSwiglu}})
    measure(bench, s, DType::bf16);
}

}  // namespace
}  // namespace xmoe
