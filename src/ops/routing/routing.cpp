#include "ops/routing/routing.h"

#include "device/gpu_built.h"
#include "ops/routing/routing_cpu.h"
#include "ops/routing/routing_gpu.h"

namespace xmoe {

namespace {

void check_matrix(const Tensor& t, const Shape& shape, DType dtype, const char* name) {
  check_shape(t, shape, name);
  check_dtype(t, dtype, name);
}

void check_options(const RoutingOptions& o, const Tensor& logits) {
  XMOE_CHECK(logits.rank() == 2, "logits: expected a matrix, got {}", to_string(logits.shape()));
  check_dtype(logits, DType::f32, "logits");
  const std::int64_t experts = logits.dim(1);
  XMOE_CHECK(1 <= o.top_k && o.top_k <= experts, "top-k {} of {} experts", o.top_k, experts);
  XMOE_CHECK(o.groups >= 1 && experts % o.groups == 0, "{} experts do not split evenly into {} groups",
             experts, o.groups);
  XMOE_CHECK(o.groups == 1 || (1 <= o.topk_groups && o.topk_groups <= o.groups), "the best {} of {} groups",
             o.topk_groups, o.groups);
  XMOE_CHECK(o.groups == 1 || o.top_k <= o.topk_groups * (experts / o.groups),
             "top-k {} of the {} experts of the {} best groups", o.top_k,
             o.topk_groups * (experts / o.groups), o.topk_groups);
}

}  // namespace

void routing_forward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                     const Tensor& bias, const Tensor& top_experts, const Tensor& top_weights,
                     const Tensor& prob_sums, const Tensor& counts, const Tensor& z_sum) {
  check_options(options, logits);
  const std::int64_t tokens = logits.dim(0);
  const std::int64_t experts = logits.dim(1);
  if (bias.defined()) check_matrix(bias, {experts}, DType::f32, "bias");
  check_matrix(top_experts, {tokens, options.top_k}, DType::i32, "top_experts");
  check_matrix(top_weights, {tokens, options.top_k}, DType::f32, "top_weights");
  check_matrix(prob_sums, {experts}, DType::f32, "prob_sums");
  check_matrix(counts, {experts}, DType::i64, "counts");
  check_matrix(z_sum, {1}, DType::f32, "z_sum");
  if (ctx.device().is_cpu())
    return cpu::routing_forward(ctx, options, logits, bias, top_experts, top_weights, prob_sums, counts,
                                z_sum);
  if constexpr (kGpuBuilt)
    return gpu::routing_forward(ctx, options, logits, bias, top_experts, top_weights, prob_sums, counts,
                                z_sum);
  fail_not_built("routing_forward", ctx.device());
}

void routing_backward(const Context& ctx, const RoutingOptions& options, const Tensor& logits,
                      const Tensor& top_experts, const Tensor& d_weights, const Tensor& d_prob_sums,
                      float d_z_sum, const Tensor& dlogits) {
  check_options(options, logits);
  const Shape chosen{logits.dim(0), options.top_k};
  check_matrix(top_experts, chosen, DType::i32, "top_experts");
  check_matrix(d_weights, chosen, DType::f32, "d_weights");
  if (d_prob_sums.defined()) check_matrix(d_prob_sums, {logits.dim(1)}, DType::f32, "d_prob_sums");
  check_matrix(dlogits, logits.shape(), DType::f32, "dlogits");
  if (ctx.device().is_cpu())
    return cpu::routing_backward(ctx, options, logits, top_experts, d_weights, d_prob_sums, d_z_sum, dlogits);
  if constexpr (kGpuBuilt)
    return gpu::routing_backward(ctx, options, logits, top_experts, d_weights, d_prob_sums, d_z_sum, dlogits);
  fail_not_built("routing_backward", ctx.device());
}

}  // namespace xmoe
