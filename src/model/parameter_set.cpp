#include "model/parameter_set.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/progress.h"
#include "base/rng.h"
#include "model/initial_values/initial_values.h"

namespace xmoe {

namespace {
// Elements: where a stage begins, every usual vector load of a weight is aligned.
constexpr std::int64_t kAlignment = 32;
}  // namespace

std::size_t ParameterSet::declare(const ParameterSpec& spec) {
  XMOE_CHECK(specs_.empty() || spec.stage >= specs_.back().stage, "{}: stage {} behind stage {}", spec.name,
             spec.stage, specs_.back().stage);
  specs_.push_back(spec);
  return specs_.size() - 1;
}

void ParameterSet::lay_out(const Placement& placement) {
  parameters_.resize(specs_.size());
  groups_.clear();
  const int stages = specs_.empty() ? 0 : specs_.back().stage + 1;
  for (int r = 0; r < kReplications; ++r) {
    const auto replication = static_cast<Replication>(r);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      ParameterGroup group;
      group.replication = replication;
      group.dtype = dtype;
      group.replicas = placement.replicas[static_cast<std::size_t>(r)];
      const std::int64_t multiple = std::lcm(kAlignment, std::int64_t{group.replicas});
      std::int64_t end = 0;
      bool any = false;
      std::size_t i = 0;
      for (int stage = 0; stage < stages; ++stage) {
        for (; i < specs_.size() && specs_[i].stage == stage; ++i) {
          const ParameterSpec& spec = specs_[i];
          if (!spec.trainable || spec.replication != replication || spec.dtype != dtype) continue;
          XMOE_CHECK(!any || spec.gradient_dtype == group.gradient_dtype,
                     "{}: its gradient is {}, those of its group are {}", spec.name,
                     name_of(spec.gradient_dtype), name_of(group.gradient_dtype));
          group.gradient_dtype = spec.gradient_dtype;
          any = true;
          parameters_[i].group = static_cast<int>(groups_.size());
          parameters_[i].begin = end;
          end += spec.sharding.local_shape(spec.global_shape).numel();
        }
        end = (end + multiple - 1) / multiple * multiple;
        group.stage_ends.push_back(end);
      }
      if (any) groups_.push_back(std::move(group));
    }
  }
}

std::size_t ParameterSet::value_bytes() const {
  std::size_t bytes = 0;
  for (const auto& g : groups_)
    bytes += Arena::aligned(static_cast<std::size_t>(g.stage_ends.back()) * size_of(g.dtype));
  for (const auto& spec : specs_)
    if (!spec.trainable)
      bytes += Arena::aligned(static_cast<std::size_t>(spec.sharding.local_shape(spec.global_shape).numel()) *
                              size_of(spec.dtype));
  return bytes;
}

std::size_t ParameterSet::gradient_bytes() const {
  std::size_t bytes = 0;
  for (const auto& g : groups_)
    bytes += Arena::aligned(static_cast<std::size_t>(g.stage_ends.back()) * size_of(g.gradient_dtype));
  return bytes;
}

void ParameterSet::allocate(Arena& values, Arena* gradients, const Mesh& mesh,
                            std::optional<std::uint64_t> seed) {
  device_ = values.device();
  lay_out(placement_of(mesh));
  for (auto& g : groups_) {
    const Shape shape = {g.stage_ends.back()};
    g.values = values.zeros(g.dtype, shape);
    if (gradients != nullptr) g.gradients = gradients->zeros(g.gradient_dtype, shape);
  }
  std::int64_t total = 0;
  for (const auto& spec : specs_) total += spec.sharding.local_shape(spec.global_shape).numel();
  constexpr std::int64_t kWorthWaitingFor = 100'000'000;  // a core computes 20 to 30 million a second
  constexpr double kMillion = 1e6;
  constexpr int kNotANumber = 0xFF;  // in every byte, of every dtype
  std::optional<Progress> progress;
  if (seed && device_.is_cpu() && total > kWorthWaitingFor)
    progress.emplace("initial values", total, "M parameters", kMillion);
  std::int64_t done = 0;
  const auto tell = [&](std::int64_t count) {
    done += count;
    if (progress) progress->update(done);
  };
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const ParameterSpec& spec = specs_[i];
    Parameter& p = parameters_[i];
    p.name = spec.name;
    p.replication = spec.replication;
    p.decay = spec.decay;
    p.trainable = spec.trainable;
    p.global_shape = spec.global_shape;
    p.sharding = spec.sharding;
    const Shape shape = spec.sharding.local_shape(spec.global_shape);
    if (p.group < 0) {
      p.value = values.tensor(spec.dtype, shape);
    } else {
      const ParameterGroup& g = groups_[static_cast<std::size_t>(p.group)];
      const auto place = [&](const Tensor& flat) {
        return flat.slice(p.begin, p.begin + shape.numel()).reshape(shape);
      };
      p.value = place(g.values);
      if (gradients != nullptr) p.grad = place(g.gradients);
    }
    if (seed)
      initialise(spec, p, *seed, tell);
    else
      device_fill(device_, p.value.raw(), kNotANumber, p.value.bytes());
  }
}

void ParameterSet::initialise(const ParameterSpec& spec, const Parameter& parameter, std::uint64_t seed,
                              const std::function<void(std::int64_t)>& tell) const {
  const Rng rng(seed, spec.name);
  const ShardIndex part(spec.global_shape, spec.sharding);
  const Tensor flat = parameter.value.reshape({parameter.value.numel()});
  Arena workspace(device_, MemoryTag::workspace);
  // Elements between two words on the progress; a GPU is not slowed down by so large pieces.
  constexpr std::int64_t kPiece = std::int64_t{1} << 22;
  for (std::int64_t first = 0; first < flat.numel(); first += kPiece) {
    const Tensor piece = flat.slice(first, std::min(first + kPiece, flat.numel()));
    fill_initial_values({workspace}, {spec.init_std, spec.init_value}, rng, part, first, piece);
    tell(piece.numel());
  }
}

}  // namespace xmoe
