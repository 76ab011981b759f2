// The parameters of a model on this rank: declared by name, global shape and part held, then allocated and
// initialised together. Values and gradients lie in flat buffers, one pair for each kind of replication and
// dtype, in the order of declaration, so that a collective or the optimizer takes any run of them at once.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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
  Sharding sharding = {};
  Replication replication = Replication::all;
  DType dtype = DType::f32;
  DType gradient_dtype = DType::f32;  // alike for all of one replication and dtype
  double init_std = 0.0;              // normal with this deviation; 0: the constant below
  float init_value = 0.0F;
  bool decay = true;
  bool trainable = true;
  // When in a step its gradient is complete: backward passes the stages from the last to 0. Declared in
  // ascending order.
  int stage = 0;
};

// Trainable parameters of one replication and dtype.
struct ParameterGroup {
  Replication replication = Replication::all;
  DType dtype = DType::f32;
  DType gradient_dtype = DType::f32;
  int replicas = 1;  // ranks that hold the same
  Tensor values;     // [n] in dtype
  Tensor gradients;  // [n] in gradient_dtype; undefined where nothing is trained
  // stage_ends[s]: end of the parameters of stages <= s. Each is a multiple of `replicas` (zeros fill up), so
  // that any run of whole stages cuts into equal parts for them.
  std::vector<std::int64_t> stage_ends;
};

class ParameterSet {
 public:
  std::size_t declare(const ParameterSpec& spec);
  // Gives every parameter its place on a rank, without memory.
  void lay_out(const Placement& placement);
  // What that takes of an arena.
  std::size_t value_bytes() const;
  std::size_t gradient_bytes() const;
  // lay_out(), and memory for all that was declared. Initial values depend on (seed, name, index in the
  // global tensor) only. Without a seed there are none, for whom a checkpoint gives every one: values are
  // NaN, so that one which is not loaded shows.
  void allocate(Arena& values, Arena* gradients, const Mesh& mesh, std::optional<std::uint64_t> seed);

  std::span<Parameter> all() { return parameters_; }
  std::span<const Parameter> all() const { return parameters_; }
  Weight weight(std::size_t index) const { return {parameters_[index].value, parameters_[index].grad}; }
  // In an order that is the same on all ranks; groups without parameters are left out.
  std::span<const ParameterGroup> groups() const { return groups_; }
  const Device& device() const { return device_; }  // where they were allocated

 private:
  // Calls tell() with the number of elements behind each piece.
  void initialise(const ParameterSpec& spec, const Parameter& parameter, std::uint64_t seed,
                  const std::function<void(std::int64_t)>& tell) const;

  std::vector<ParameterSpec> specs_;
  std::vector<Parameter> parameters_;
  std::vector<ParameterGroup> groups_;
  Device device_;
};

}  // namespace xmoe
