// The parameters of a model on this rank: declared by name and global shape, then allocated and initialised
// together. Gradients lie in two flat buffers, one per kind of replication, so that each is reduced by one
// collective and cleared by one fill.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "device/arena.h"
#include "model/parameter.h"
#include "moe/weight.h"

namespace xmoe {

struct ParameterSpec {
  std::string name;
  Shape global_shape;
  Replication replication = Replication::dense;
  DType dtype = DType::f32;
  double init_std = 0.0;  // normal with this deviation; 0: the constant below
  float init_value = 0.0F;
  bool decay = true;
  bool trainable = true;
};

class ParameterSet {
 public:
  // Expert parameters are cut along their leading dimension: this rank holds part `shard` of `shards`.
  ParameterSet(int shard, int shards) : shard_(shard), shards_(shards) {}

  std::size_t declare(const ParameterSpec& spec);
  // Allocates all that was declared. Initial values depend on (seed, name, index in the global tensor) only.
  void allocate(Arena& values, Arena* gradients, std::uint64_t seed);

  std::span<Parameter> all() { return parameters_; }
  std::span<const Parameter> all() const { return parameters_; }
  Weight weight(std::size_t index) const { return {parameters_[index].value, parameters_[index].grad}; }

  const Tensor& dense_gradients() const { return dense_gradients_; }    // [n] f32
  const Tensor& expert_gradients() const { return expert_gradients_; }  // [n] f32

 private:
  void initialise(const ParameterSpec& spec, const Parameter& parameter, std::uint64_t seed) const;

  int shard_;
  int shards_;
  std::vector<ParameterSpec> specs_;
  std::vector<Parameter> parameters_;
  Tensor dense_gradients_;
  Tensor expert_gradients_;
};

}  // namespace xmoe
