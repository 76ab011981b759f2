#include "model/parameter_set.h"

#include "base/parallel.h"
#include "base/rng.h"

namespace xmoe {

std::size_t ParameterSet::declare(const ParameterSpec& spec) {
  specs_.push_back(spec);
  return specs_.size() - 1;
}

void ParameterSet::allocate(Arena& values, Arena* gradients, std::uint64_t seed) {
  std::int64_t flat[2] = {0, 0};  // elements by replication
  for (const auto& spec : specs_) {
    Parameter p;
    p.name = spec.name;
    p.replication = spec.replication;
    p.decay = spec.decay;
    p.trainable = spec.trainable;
    p.global_shape = spec.global_shape;
    Shape shape = spec.global_shape;
    if (spec.replication == Replication::expert) {
      XMOE_CHECK(shape[0] % shards_ == 0, "{}: {} experts do not divide over {} ranks", spec.name, shape[0],
                 shards_);
      shape[0] /= shards_;
      p.offset = shard_ * shape[0];
    }
    p.value = values.tensor(spec.dtype, shape);
    if (spec.trainable) flat[static_cast<std::size_t>(spec.replication)] += shape.numel();
    initialise(spec, p, seed);
    parameters_.push_back(p);
  }
  if (gradients == nullptr) return;
  dense_gradients_ = gradients->zeros(DType::f32, {flat[0]});
  expert_gradients_ = gradients->zeros(DType::f32, {flat[1]});
  std::int64_t next[2] = {0, 0};
  for (auto& p : parameters_) {
    if (!p.trainable) continue;
    auto& at = next[static_cast<std::size_t>(p.replication)];
    const Tensor& buffer = p.replication == Replication::dense ? dense_gradients_ : expert_gradients_;
    p.grad = buffer.slice(at, at + p.value.numel()).reshape(p.value.shape());
    at += p.value.numel();
  }
}

void ParameterSet::initialise(const ParameterSpec& spec, const Parameter& parameter,
                              std::uint64_t seed) const {
  const Rng rng(seed, spec.name);
  const std::int64_t row = parameter.value.dim(0) == 0 ? 0 : parameter.value.numel() / parameter.value.dim(0);
  const std::int64_t first = parameter.offset * row;  // in the global tensor
  with_float(spec.dtype, [&]<typename T>(T) {
    T* out = parameter.value.data<T>();
    constexpr std::int64_t kGrain = 4096;  // elements worth a thread
    parallel_for(parameter.value.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        out[i] = static_cast<T>(
            spec.init_std == 0.0
                ? spec.init_value
                : static_cast<float>(spec.init_std * rng.normal(static_cast<std::uint64_t>(first + i))));
    });
  });
}

}  // namespace xmoe
