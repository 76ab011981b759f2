// Letters: T rows of all sequences, S sequence length, D head size.
#pragma once

#include "ops/attention/attention.h"

namespace xmoe::gpu {

// By cuDNN where it has a kernel, else by the plain path.
void attention_forward(const Context& ctx, const AttentionShape& shape,
                       const Tensor& qkv,   // [T, qkv_width]
                       const Tensor& out,   // [T, heads * D]
                       const Tensor& lse);  // [batch, heads, S]

void attention_backward(const Context& ctx, const AttentionShape& shape,
                        const Tensor& dout,   // [T, heads * D]
                        const Tensor& qkv,    // [T, qkv_width]
                        const Tensor& out,    // [T, heads * D]
                        const Tensor& lse,    // [batch, heads, S]
                        const Tensor& dqkv);  // [T, qkv_width]

void attention_decode(const Context& ctx, const AttentionShape& shape, std::int64_t length,
                      const Tensor& q,       // [batch, heads * D]
                      const Tensor& keys,    // [batch, S, kv_heads * D]
                      const Tensor& values,  // [batch, S, kv_heads * D]
                      const Tensor& out);    // [batch, heads * D]

// For the benchmark: the backward of cuDNN that adds up in whatever order. False where it has none.
bool attention_backward_in_any_order(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                                     const Tensor& qkv, const Tensor& out, const Tensor& lse,
                                     const Tensor& dqkv);

// f32, bf16 and f16, heads of any size, any GPU. Scores and their gradients are held for as many heads, or
// for as many queries of a group of heads, as fit `scratch_bytes`.
namespace plain {

// Some thousands of tiles: enough for every GPU.
inline constexpr std::int64_t kScratchBytes = std::int64_t{512} << 20;

void attention_forward(const Context& ctx, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse, std::int64_t scratch_bytes = kScratchBytes);

void attention_backward(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                        const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dqkv,
                        std::int64_t scratch_bytes = kScratchBytes);

}  // namespace plain

}  // namespace xmoe::gpu
