#include "bench/support/expert_bound.h"

#include <fmt/core.h>

#include "bench/support/bench.h"
#include "bench/support/gemm_bound.h"
#include "bench/support/random_blocks.h"
#include "ops/gemm/gemm.h"

namespace xmoe {

namespace {

constexpr GemmOptions kLeftTransposed{.a = Transpose::yes, .b = Transpose::no, .accumulate = false};

ExpertBound bound_of_each(const ExpertShape& s, DType dtype) {
  const std::int64_t m = s.rows() / s.experts;
  const auto seconds = [&](std::int64_t a, std::int64_t b, std::int64_t c, DType output,
                           const GemmOptions& options) {
    return 2.0 * static_cast<double>(a * b * c * s.experts) /
           (gemm_bound(a, b, c, dtype, output, options) * 1e9);
  };
  ExpertBound bound;
  bound.forward_seconds = seconds(m, s.width(), s.hidden, dtype, kTimesTransposed) +
                          seconds(m, s.hidden, s.ffn, dtype, kTimesTransposed);
  bound.backward_seconds = seconds(m, s.ffn, s.hidden, dtype, {}) +
                           seconds(m, s.hidden, s.width(), dtype, {}) +
                           seconds(s.width(), s.hidden, m, DType::f32, kLeftTransposed) +
                           seconds(s.hidden, s.ffn, m, DType::f32, kLeftTransposed);
  return bound;
}

ExpertBound bound_of_one_matrix(const ExpertShape& s, DType dtype, const Device& device) {
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
                           seconds(h, x, dw1, kLeftTransposed) + seconds(x, a, dw2, kLeftTransposed);
  return bound;
}

}  // namespace

std::string ExpertShape::name() const {
  return fmt::format("T {} H {} I {} E {} k {} {}", tokens, hidden, ffn, experts, top_k,
                     activation == Activation::gelu ? "gelu" : "swiglu");
}

const std::vector<ExpertShape>& large_expert_shapes() {
  constexpr auto kGelu = Activation::gelu;
  constexpr auto kSwiglu = Activation::swiglu;
  static const std::vector<ExpertShape> shapes = {
      {16384, 2048, 1408, 64, 6, kGelu},      // X-MoE Small
      {16384, 2048, 1408, 64, 6, kSwiglu},    //
      {8192, 7168, 2048, 4, 1, kGelu},        // X-MoE Large, the share of one rank of 64
      {24576, 1536, 256, 128, 8, kSwiglu},    // many small experts
      {16384, 2048, 768, 128, 8, kSwiglu},    // Qwen3-30B-A3B
      {32768, 4096, 1024, 128, 8, kSwiglu}};  //
  return shapes;
}

ExpertBound expert_bound(const ExpertShape& shape, DType dtype, const Device& device) {
  return device.is_cpu() ? bound_of_each(shape, dtype) : bound_of_one_matrix(shape, dtype, device);
}

}  // namespace xmoe
