// The choice between the two paths.
#include "ops/attention/attention_gpu.h"

#include "device/gpu.h"
#include "ops/attention/attention_cudnn_gpu.h"

namespace xmoe::gpu {

void attention_forward(const Context& ctx, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse) {
  check_device(ctx.device(), {qkv, out, lse});
  if constexpr (kCudnnBuilt)
    if (cudnn::attention_forward(ctx, stream(ctx.device()), shape, qkv, out, lse)) return;
  plain::attention_forward(ctx, shape, qkv, out, lse);
}

void attention_backward(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                        const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  check_device(ctx.device(), {dout, qkv, out, lse, dqkv});
  if constexpr (kCudnnBuilt)
    if (cudnn::attention_backward(ctx, stream(ctx.device()), shape, dout, qkv, out, lse, dqkv)) return;
  plain::attention_backward(ctx, shape, dout, qkv, out, lse, dqkv);
}

bool attention_backward_in_any_order(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                                     const Tensor& qkv, const Tensor& out, const Tensor& lse,
                                     const Tensor& dqkv) {
  if constexpr (kCudnnBuilt)
    return cudnn::attention_backward(ctx, stream(ctx.device()), shape, dout, qkv, out, lse, dqkv,
                                     cudnn::Order::any);
  return false;
}

}  // namespace xmoe::gpu
