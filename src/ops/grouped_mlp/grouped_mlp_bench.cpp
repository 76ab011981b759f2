// The experts' op against the same products of the vendor's library, on rows that are spread evenly.
// Gradients of weights are written, as in the first micro-batch of a step; further ones read them too.
#include "bench/support/bench.h"
#include "bench/support/expert_bound.h"
#include "bench/support/random_blocks.h"

namespace xmoe {

namespace {

// The op with its memory. Row r is read from token `source[r]`, and written to a row of its own.
class ExpertsRun {
 public:
  ExpertsRun(const ExpertShape& s, DType dtype, const Device& device)
      : s_(s),
        per_expert_(static_cast<std::size_t>(s.experts), s.rows() / s.experts),
        arena_(device, MemoryTag::saved),
        workspace_(device, MemoryTag::workspace) {
    x_ = filled(dtype, {s.tokens, s.hidden});
    dy_ = filled(dtype, {s.tokens, s.hidden});
    w1_ = filled(dtype, {s.experts, s.width(), s.hidden});
    w2_ = filled(dtype, {s.experts, s.hidden, s.ffn});
    rows_.per_expert = per_expert_;
    rows_.source = arena_.tensor(DType::i32, {s.rows()});
    fill_random_blocks(rows_.source, integers(0, s.tokens), "source");
    rows_.weights = arena_.tensor(DType::f32, {s.rows()});
    fill_random_blocks(rows_.weights, uniform(0.0, 1.0), "weights");
    h_ = arena_.tensor(dtype, {s.rows(), s.width()});
    y_ = arena_.tensor(dtype, {s.rows(), s.hidden});
    dweights_ = arena_.tensor(DType::f32, {s.rows()});
    dw1_ = arena_.zeros(DType::f32, w1_.shape());
    dw2_ = arena_.zeros(DType::f32, w2_.shape());
  }
  void forward() {
    grouped_mlp_forward({workspace_}, s_.activation, rows_, {x_, {}}, w1_, w2_, h_, {y_, {}});
  }
  void backward() {
    grouped_mlp_backward({workspace_}, s_.activation, rows_, {dy_, {}}, {x_, {}}, w1_, w2_, h_, {y_, {}},
                         dweights_, dw1_, dw2_, Accumulation::write);
  }

 private:
  Tensor filled(DType dtype, const Shape& shape) {
    const Tensor t = arena_.tensor(dtype, shape);
    fill_random_blocks(t, normal(0.1), std::to_string(arena_.in_use()));
    return t;
  }

  ExpertShape s_;
  std::vector<std::int64_t> per_expert_;
  Arena arena_, workspace_;
  ExpertRows rows_;
  Tensor x_, dy_, w1_, w2_, h_, y_, dweights_, dw1_, dw2_;
};

void measure(Bench& bench, const ExpertShape& s, DType dtype) {
  const ExpertBound bound = expert_bound(s, dtype, bench.device());
  const double forward = s.forward_flops();
  ExpertsRun run(s, dtype, bench.device());
  bench.compute_bound("grouped_mlp.forward", s.name(), dtype, forward, forward / bound.forward_seconds * 1e-9,
                      [&] { run.forward(); });
  bench.compute_bound("grouped_mlp.backward", s.name(), dtype, 2.0 * forward,
                      2.0 * forward / bound.backward_seconds * 1e-9, [&] { run.backward(); });
}

XMOE_BENCHMARK(grouped_mlp) {
  if (bench.device().is_cpu()) {
    for (const auto activation : {Activation::gelu, Activation::swiglu})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const ExpertShape s{4096, 512, 256, 32, 4, activation};
        if (bench.wants(s.name())) measure(bench, s, dtype);
      }
    return;
  }
  for (const ExpertShape& s : large_expert_shapes())
    if (bench.wants(s.name())) measure(bench, s, DType::bf16);
}

}  // namespace
}  // namespace xmoe
