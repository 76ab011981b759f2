// The feed-forward block of a layer without experts. Over a tensor-parallel group of G ranks each holds 1 / G
// of its inner width; rows come and go in shards of n = T / G (comm/row_shards.h).
#pragma once

#include "comm/communicator.h"
#include "device/context.h"
#include "moe/weight.h"
#include "ops/grouped_mlp/grouped_mlp.h"

namespace xmoe {

class DenseMlp {
 public:
  DenseMlp(Activation activation,
           const Weight& w1,  // [1, F', H]: F' pre-activations of this rank
           const Weight& w2,  // [1, H, F]
           Communicator& tp)
      : activation_(activation), w1_(w1), w2_(w2), tp_(tp) {}

  std::int64_t preactivations() const { return w1_.value.dim(1); }

  void forward(const Context& ctx,
               const Tensor& x,         // [n, H]
               const Tensor& h,         // [T, F'], kept for backward
               const Tensor& y) const;  // [n, H]

  void backward(const Context& ctx,
                const Tensor& dy,         // [n, H]
                const Tensor& x,          // [n, H], as in forward
                const Tensor& h,          // [T, F'], or undefined: it is computed again
                const Tensor& dx) const;  // [n, H]; written

  // A few rows that are the same on all ranks of the group.
  void decode(const Context& ctx,
              const Tensor& x,         // [batch, H]
              const Tensor& y) const;  // [batch, H]

 private:
  Activation activation_;
  Weight w1_, w2_;
  Communicator& tp_;
};

}  // namespace xmoe
