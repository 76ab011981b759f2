// Self-attention of a layer: projection to queries, keys and values, rotary embedding, attention, output
// projection.
//
// Over a tensor-parallel group of G ranks each holds the heads of its part: rows of the first projection,
// columns of the second (Shoeybi et al. 2019). Rows come and go in shards: n = T / G of the T rows of the
// micro-batch are here between blocks (comm/row_shards.h). heads and kv_heads of a shape are those of this
// rank.
#pragma once

#include "comm/communicator.h"
#include "device/context.h"
#include "moe/weight.h"
#include "ops/attention/attention.h"

namespace xmoe {

struct AttentionSaved {
  Tensor qkv;  // [T, qkv_width], rotated; undefined: backward computes all of this again
  Tensor out;  // [T, heads * D]
  Tensor lse;  // [batch, heads, S] f32

  std::size_t bytes() const { return qkv.bytes() + out.bytes() + lse.bytes(); }
};

class AttentionBlock {
 public:
  AttentionBlock(const Weight& qkv,     // [qkv_width, H]
                 const Weight& output,  // [H, heads * D]
                 Communicator& tp)
      : qkv_(qkv), output_(output), tp_(tp) {}

  // What backward needs comes from `saved`, which may be ctx.workspace.
  void forward(const Context& ctx, Arena& saved, const AttentionShape& shape,
               const Tensor& rope_table,  // [S, D] f32
               const Tensor& x,           // [n, H]
               const Tensor& y,           // [n, H]
               AttentionSaved& kept) const;

  void backward(const Context& ctx, const AttentionShape& shape, const Tensor& rope_table,
                const Tensor& dy,  // [n, H]
                const Tensor& x,   // [n, H], as in forward
                AttentionSaved kept,
                const Tensor& dx) const;  // [n, H]; written

  // One new row per sequence at `position`, the same on all ranks of the group; its key and value are added
  // to the caches.
  void decode(const Context& ctx, const AttentionShape& shape, const Tensor& rope_table,
              std::int64_t position,
              const Tensor& x,         // [batch, H]
              const Tensor& keys,      // [batch, S, kv_heads * D]
              const Tensor& values,    // [batch, S, kv_heads * D]
              const Tensor& y) const;  // [batch, H]

 private:
  void attend(const Context& ctx, Arena& saved, const AttentionShape& shape, const Tensor& rope_table,
              const Tensor& x,  // [T, H]
              AttentionSaved& kept) const;

  Weight qkv_;
  Weight output_;
  Communicator& tp_;
};

}  // namespace xmoe
