// Causal self-attention with grouped queries, computed block by block without holding the [S, S] scores (Dao
// et al. 2022).
//
//   o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(D)) v_s       query head h uses key-value head h / (heads /
//   kv_heads)
//
// T = batch * S rows; a row of qkv is [heads * D of q | kv_heads * D of k | kv_heads * D of v]. Statistics in
// f32.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

struct AttentionShape {
  std::int64_t batch = 0;
  std::int64_t seq = 0;  // S
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;  // D

  std::int64_t rows() const { return batch * seq; }
  std::int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
  // Multiply-adds count as two; the masked half is not counted. Backward is 2.5 times this (five products for
  // two).
  double forward_flops() const {
    return 2.0 * 2.0 * static_cast<double>(batch * heads * head_dim) * static_cast<double>(seq) *
           static_cast<double>(seq + 1) / 2.0;
  }
};

void attention_forward(
    const Context& ctx, const AttentionShape& shape,
    const Tensor& qkv,   // [T, qkv_width]
    const Tensor& out,   // [T, heads * D]
    const Tensor& lse);  // [batch, heads, S] f32: log-sum-exp of the scaled scores; kept for backward

void attention_backward(const Context& ctx, const AttentionShape& shape,
                        const Tensor& dout,   // [T, heads * D]
                        const Tensor& qkv,    // [T, qkv_width]
                        const Tensor& out,    // [T, heads * D]
                        const Tensor& lse,    // [batch, heads, S] f32
                        const Tensor& dqkv);  // [T, qkv_width]

// One query row per sequence against cached keys and values (generation). Rows of the cache beyond `length`
// are not read.
void attention_decode(const Context& ctx, const AttentionShape& shape,  // shape.seq: capacity of the cache
                      std::int64_t length,   // positions to attend to, the new one included
                      const Tensor& q,       // [batch, heads * D]
                      const Tensor& keys,    // [batch, S, kv_heads * D]
                      const Tensor& values,  // [batch, S, kv_heads * D]
                      const Tensor& out);    // [batch, heads * D]

}  // namespace xmoe
