// Attention by cuDNN: bf16 and f16, head sizes and GPUs that it supports. cuDNN's names stay in the one
// source file.
#pragma once

#include "ops/attention/attention.h"

struct CUstream_st;  // what a stream points to

namespace xmoe {

// Whether this binary holds the path; without it all attention of GPUs is computed by the kernels of
// attention_gpu.cu.
#ifdef XMOE_CUDNN_BUILT
inline constexpr bool kCudnnBuilt = true;
#else
inline constexpr bool kCudnnBuilt = false;
#endif

}  // namespace xmoe

namespace xmoe::cudnn {

// The order in which backward adds up the gradients: fixed, as training needs it, or whatever comes first,
// which is here to be measured against.
enum class Order : bool { fixed, any };

// Arguments as in attention.h. Both return false, and queue nothing, where cuDNN has no kernel for the shape
// on this GPU.
bool attention_forward(const Context& ctx, CUstream_st* stream, const AttentionShape& shape,
                       const Tensor& qkv,   // [T, qkv_width]
                       const Tensor& out,   // [T, heads * D]
                       const Tensor& lse);  // [batch, heads, S]

bool attention_backward(const Context& ctx, CUstream_st* stream, const AttentionShape& shape,
                        const Tensor& dout,  // [T, heads * D]
                        const Tensor& qkv,   // [T, qkv_width]
                        const Tensor& out,   // [T, heads * D]
                        const Tensor& lse,   // [batch, heads, S]
                        const Tensor& dqkv,  // [T, qkv_width]
                        Order order = Order::fixed);

}  // namespace xmoe::cudnn
