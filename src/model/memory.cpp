#include "model/memory.h"

#include <algorithm>

#include "moe/pft.h"
#include "ops/attention/attention.h"
#include "ops/cross_entropy/cross_entropy_gpu.h"
#include "ops/gemm/gemm_gpu.h"

namespace xmoe {

namespace {

// Bytes of tensors of so many elements, as an arena counts them.
struct Bytes {
  std::size_t total = 0;

  Bytes& add(DType dtype, std::int64_t elements, std::int64_t times = 1) {
    total +=
        static_cast<std::size_t>(times) * Arena::aligned(static_cast<std::size_t>(elements) * size_of(dtype));
    return *this;
  }
};

class Plan {
 public:
  Plan(const ModelConfig& config, DType dtype, const Placement& placement, std::int64_t micro_batch,
       Device::Kind device)
      : c_(config),
        dtype_(dtype),
        gpu_(device == Device::Kind::gpu),
        tp_(placement.tensor_size),
        ep_(placement.expert_size),
        ted_(placement.expert_tensor && tp_ > 1),
        all_(micro_batch * config.seq_length),
        own_(all_ / tp_) {
    // Tokens that a layer routes together, and the rows that they make.
    routed_ = ted_ ? all_ : own_;
    const RouterConfig& r = c_.moe.router;
    if (r.experts == 0) return;
    rows_ = routed_ * r.top_k;
    if (!c_.moe.capacity_factor) return;
    const std::int64_t room = r.experts * expert_capacity(routed_, r.top_k, r.experts,
                                                          *c_.moe.capacity_factor, c_.moe.min_capacity);
    padded_ = c_.moe.dispatcher == DispatcherKind::padded;
    rows_ = padded_ ? room : std::min(rows_, room);
  }

  std::size_t saved() const {
    Bytes sum;
    sum.add(dtype_, own_ * c_.hidden, c_.layers + 1);  // the streams between layers
    for (std::int64_t l = 0; l < c_.layers; ++l) {
      if (!c_.recompute.layer) sum.total += attention_stream();
      if (!c_.recompute.layer && !c_.recompute.attention) sum.total += attention_kept();
      if (c_.is_moe_layer(l)) {
        sum.total += routing_kept();
        if (!c_.recompute.layer && !c_.recompute.moe) sum.total += experts_kept();
        if (!c_.recompute.layer && !c_.recompute.mlp) sum.total += shared_kept();
      } else if (!c_.recompute.layer && !c_.recompute.mlp) {
        sum.total += dense_kept();
      }
    }
    return sum.total;
  }

  std::size_t workspace() const {
    const std::size_t stream = Bytes{}.add(dtype_, own_ * c_.hidden).total;
    // dx, and the two streams of a layer.
    std::size_t most = loss();
    for (std::int64_t l = 0; l < c_.layers; ++l) {
      std::size_t layer = std::max(attention(), c_.is_moe_layer(l) ? experts() : dense());
      if (c_.recompute.layer) layer += attention_stream() + attention_kept() + dense_kept();
      most = std::max(most, layer);
    }
    return 3 * stream + most + (gpu_ ? kProducts : 0);
  }

 private:
  // For one product at a time, and as much for small arrays of the routing and the loss.
  static constexpr std::size_t kProducts = 2 * gpu::kProductWorkspace;
  // Rows of the loss whose logits exist at a time on the CPU, at most.
  static constexpr std::int64_t kLossRows = 4096;

  std::int64_t qkv_width() const { return (c_.heads + 2 * c_.kv_heads) * c_.head_dim / tp_; }
  std::int64_t expert_width() const {
    return preactivation_width(c_.moe.activation, c_.moe.ffn_hidden) / (ted_ ? tp_ : 1);
  }
  // Rows that leave a rank and, even, come to it.
  std::int64_t travelling() const { return ep_ == 1 ? 0 : padded_ ? rows_ : rows_ / ep_ * (ep_ - 1); }

  std::size_t attention_stream() const {
    return Bytes{}.add(DType::f32, own_ * 2, 2).add(dtype_, own_ * c_.hidden).total;
  }
  std::size_t attention_kept() const {
    return Bytes{}
        .add(dtype_, all_ * qkv_width())
        .add(dtype_, all_ * c_.heads * c_.head_dim / tp_)
        .add(DType::f32, all_ * c_.heads / tp_)
        .total;
  }
  std::size_t dense_kept() const {
    return Bytes{}.add(dtype_, all_ * preactivation_width(c_.moe.activation, c_.ffn_hidden) / tp_).total;
  }
  std::size_t shared_kept() const {
    const std::int64_t width = c_.moe.shared_ffn_hidden;
    return width == 0 ? 0 : Bytes{}.add(dtype_, own_ * preactivation_width(c_.moe.activation, width)).total;
  }
  // Logits, choice, and the plans of all chunks: combine_index, and arrays of rows (source and weights; with
  // several ranks also tokens and destination).
  // On a GPU those of the PFT have room for what is dropped, too.
  std::size_t routing_kept() const {
    const RouterConfig& r = c_.moe.router;
    const std::int64_t chunks = c_.moe.overlap_chunks;
    const std::int64_t of_pft = padded_ || !gpu_ ? 0 : ep_ == 1 ? 2 : 1;
    const std::int64_t arrays = (padded_ ? 3 : ep_ == 1 ? 2 : 4) - of_pft;
    return Bytes{}
        .add(DType::f32, own_ * r.experts)
        .add(DType::i32, own_ * r.top_k)
        .add(DType::i32, ceil_div(routed_ * r.top_k, chunks), chunks)
        .add(DType::i32, ceil_div(rows_, chunks), arrays * chunks)
        .add(DType::i32, ceil_div(routed_ * r.top_k, chunks), of_pft * chunks)
        .total;
  }
  std::size_t experts_kept() const {
    const std::int64_t chunks = c_.moe.overlap_chunks;
    return Bytes{}
        .add(dtype_, ceil_div(rows_, chunks) * expert_width(), chunks)
        .add(dtype_, ceil_div(padded_ ? rows_ : travelling(), chunks) * c_.hidden, chunks)
        .total;
  }

  // Rows of the whole group and the sums formed for them.
  std::size_t gathered() const { return tp_ == 1 ? 0 : Bytes{}.add(dtype_, all_ * c_.hidden, 2).total; }
  std::size_t attention() const {
    Bytes sum{gathered() + gathered() / 2};
    sum.add(dtype_, all_ * (qkv_width() + c_.heads * c_.head_dim / tp_));
    // The kernels' own: sums of dq in f32, one float per row and head.
    sum.add(DType::f32, all_ * c_.heads / tp_ * (gpu_ ? c_.head_dim + 1 : 1));
    if (c_.recompute.attention) sum.total += attention_kept();
    return sum.total;
  }
  // A grouped product in backward, of `rows` through `width` inner columns.
  std::size_t product(std::int64_t rows, std::int64_t preactivations, std::int64_t ffn, bool in_order) const {
    Bytes sum;
    sum.add(dtype_, rows * (preactivations + ffn));
    // Kernels that want rows in one piece copy them there and back; derivatives of activations in f32.
    if (gpu_) sum.add(DType::f32, rows * ffn).add(dtype_, in_order ? 0 : rows * c_.hidden, 2);
    return sum.total;
  }
  std::size_t dense() const {
    Bytes sum{gathered() + gathered() / 2};
    if (c_.recompute.mlp) sum.total += dense_kept();
    sum.total +=
        product(all_, preactivation_width(c_.moe.activation, c_.ffn_hidden) / tp_, c_.ffn_hidden / tp_,
                /*in_order=*/true);
    return sum.total;
  }
  std::size_t experts() const {
    const MoeConfig& m = c_.moe;
    Bytes sum;
    if (c_.recompute.layer || c_.recompute.moe) sum.total += experts_kept();
    if (ted_) sum.add(dtype_, all_ * c_.hidden, 3);
    // Gradients sent, those received, and results on their way back; one float per row.
    sum.add(dtype_, travelling() * c_.hidden, 3).add(dtype_, rows_ * c_.hidden).add(DType::f32, rows_, 4);
    sum.total += product(rows_, expert_width(), m.ffn_hidden / (ted_ ? tp_ : 1), /*in_order=*/false);
    // What an expert adds to gradients that are not f32.
    if (c_.expert_gradients != DType::f32) sum.add(DType::f32, expert_width() * c_.hidden);
    Bytes shared;
    if (m.shared_ffn_hidden > 0) {
      shared.add(dtype_, own_ * c_.hidden);
      if (c_.recompute.layer || c_.recompute.mlp) shared.total += shared_kept();
      shared.total +=
          product(own_, preactivation_width(m.activation, m.shared_ffn_hidden), m.shared_ffn_hidden,
                  /*in_order=*/true);
    }
    const std::size_t router =
        Bytes{}.add(DType::f32, own_ * m.router.experts).add(DType::f32, own_ * c_.hidden, 2).total;
    // The PFT, and what the choice itself takes.
    const std::size_t choice = Bytes{}.add(DType::f32, routed_ * m.router.top_k, 6).total;
    return std::max({sum.total, shared.total, router}) + choice;
  }
  std::size_t loss() const {
    const std::int64_t words = c_.vocabulary / tp_;
    const auto logits = [&](std::int64_t rows) {
      return Bytes{}.add(DType::f32, rows * words).add(dtype_, rows * words).total;
    };
    constexpr auto kChunk = static_cast<std::size_t>(gpu::kChunkBytes);
    return Bytes{gathered()}.add(dtype_, own_ * c_.hidden).add(DType::f32, own_ * 2 + all_ * 2).total +
           (gpu_ ? std::min(logits(all_), kChunk) : logits(std::min(kLossRows, all_)));
  }

  static std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

  const ModelConfig& c_;
  DType dtype_;
  bool gpu_;
  std::int64_t tp_, ep_;
  bool ted_;
  std::int64_t all_, own_;  // tokens of the micro-batch, and those of a rank between blocks
  std::int64_t routed_ = 0;
  std::int64_t rows_ = 0;  // of a layer's experts on this rank
  bool padded_ = false;
};

}  // namespace

std::size_t table_bytes(const ModelConfig& c) {
  Bytes sum;
  sum.add(DType::f32, c.seq_length * c.head_dim);
  std::int64_t moe_layers = 0;
  for (std::int64_t l = 0; l < c.layers; ++l) moe_layers += c.is_moe_layer(l) ? 1 : 0;
  const std::int64_t experts = c.moe.router.experts;
  if (moe_layers > 0)
    sum.add(DType::f32, moe_layers * (experts + 1))
        .add(DType::i64, moe_layers * experts)
        .add(DType::f32, moe_layers * experts);
  return sum.total;
}

ModelMemory plan_memory(const ModelConfig& config, DType dtype, const Placement& placement,
                        std::int64_t micro_batch, Device::Kind device) {
  const ParameterSet parameters = plan_parameters(config, dtype, placement);
  const Plan plan(config, dtype, placement, micro_batch, device);
  return {.parameters = parameters.value_bytes() + table_bytes(config),
          .gradients = parameters.gradient_bytes(),
          .saved = plan.saved(),
          .workspace = plan.workspace()};
}

}  // namespace xmoe
