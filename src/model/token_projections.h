// The two ends of the model, the embedding and the output projection with its loss. Over a tensor-parallel
// group of G ranks each holds a run of V / G rows of both matrices (Shoeybi et al. 2019). Hidden rows come
// and go in shards of n = T / G (comm/row_shards.h); tokens, targets and losses are those of all T rows, the
// same on every rank of the group.
#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "device/context.h"
#include "moe/weight.h"
#include "ops/cross_entropy/cross_entropy.h"

namespace xmoe {

class TokenProjections {
 public:
  TokenProjections(const Weight& embedding,  // [V / G, H]
                   const Weight& output,     // [V / G, H]; the same memory when they are tied
                   Communicator& tp)
      : embedding_(embedding), output_(output), tp_(tp) {}

  // `tokens` in host memory. Throws Error when one is not in [0, V).
  void embed(const Context& ctx,
             const Tensor& tokens,      // [T] i32
             const Tensor& out) const;  // [n, H]
  void embed_backward(const Context& ctx,
                      const Tensor& tokens,       // [T] i32
                      const Tensor& dout) const;  // [n, H]

  // Cross-entropy of every row and, where dx is defined, the gradients of grad_scale * (sum of losses).
  void losses(const Context& ctx,
              const Tensor& x,        // [n, H]
              const Tensor& targets,  // [T] i32, in [0, V) or kIgnoredTarget
              const Tensor& losses,   // [T] f32
              float grad_scale,
              const Tensor& dx) const;  // [n, H]; written

  void logits(const Context& ctx,
              const Tensor& x,           // [n, H]
              const Tensor& out) const;  // [T, V] f32

  // The same for a few rows that are the same on all ranks of the group.
  void embed_whole(const Context& ctx,
                   const Tensor& tokens,      // [batch] i32
                   const Tensor& out) const;  // [batch, H]
  void logits_whole(const Context& ctx,
                    const Tensor& x,           // [batch, H]
                    const Tensor& out) const;  // [batch, V] f32

 private:
  std::int64_t own_words() const { return embedding_.value.dim(0); }
  std::int64_t words() const { return own_words() * tp_.size(); }
  std::int64_t first_word() const { return own_words() * tp_.rank(); }
  // Rows of the embedding here, -1 for those of other ranks.
  Tensor own_ids(const Context& ctx, const Tensor& tokens) const;
  VocabularySlice slice(const Context& ctx) const;

  Weight embedding_, output_;
  Communicator& tp_;
};

}  // namespace xmoe
