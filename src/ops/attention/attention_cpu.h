// Letters: T rows of all sequences, S sequence length, D head size.
#pragma once

#include "ops/attention/attention.h"

namespace xmoe::cpu {

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

}  // namespace xmoe::cpu
