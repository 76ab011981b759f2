// Self-attention of a layer: projection to queries, keys and values, rotary embedding, attention, output
// projection.
#pragma once

#include "device/context.h"
#include "moe/weight.h"
#include "ops/attention/attention.h"

namespace xmoe {

struct AttentionSaved {
  Tensor qkv;  // [T, qkv_width], rotated
  Tensor out;  // [T, heads * D]
  Tensor lse;  // [batch, heads, S] f32

  std::size_t bytes() const { return qkv.bytes() + out.bytes() + lse.bytes(); }
};

class AttentionBlock {
 public:
  AttentionBlock(const Weight& qkv,     // [qkv_width, H]
                 const Weight& output)  // [H, heads * D]
      : qkv_(qkv), output_(output) {}

  void forward(const Context& ctx, Arena& saved, const AttentionShape& shape,
               const Tensor& rope_table,  // [S, D] f32
               const Tensor& x,           // [T, H]
               const Tensor& y,           // [T, H]
               AttentionSaved& kept) const;

  void backward(const Context& ctx, const AttentionShape& shape, const Tensor& rope_table,
                const Tensor& dy,  // [T, H]
                const Tensor& x,   // [T, H], as in forward
                const AttentionSaved& kept,
                const Tensor& dx) const;  // [T, H]; written

  // One new row per sequence at `position`; its key and value are added to the caches.
  void decode(const Context& ctx, const AttentionShape& shape, const Tensor& rope_table,
              std::int64_t position,
              const Tensor& x,         // [batch, H]
              const Tensor& keys,      // [batch, S, kv_heads * D]
              const Tensor& values,    // [batch, S, kv_heads * D]
              const Tensor& y) const;  // [batch, H]

 private:
  Weight qkv_;
  Weight output_;
};

}  // namespace xmoe
