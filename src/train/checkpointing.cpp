#include "train/checkpointing.h"

#include "ops/elementwise/elementwise.h"

namespace xmoe {

namespace {

CheckpointTensor entry(const Parameter& p, const std::string& name, const Tensor& data) {
  return {name, data, p.global_shape, p.offset, p.replication};
}

void append_masters(const Optimizer& optimizer, std::vector<CheckpointTensor>& tensors) {
  for (const auto& s : optimizer.states())
    tensors.push_back(entry(*s.parameter, s.parameter->name, s.master));
}

void append_moments(const Optimizer& optimizer, std::vector<CheckpointTensor>& tensors) {
  for (const auto& s : optimizer.states()) {
    if (!s.parameter->trainable) continue;
    tensors.push_back(entry(*s.parameter, s.parameter->name + kFirstMomentSuffix, s.m));
    tensors.push_back(entry(*s.parameter, s.parameter->name + kSecondMomentSuffix, s.v));
  }
}

}  // namespace

std::vector<CheckpointTensor> training_tensors(const Optimizer& optimizer) {
  std::vector<CheckpointTensor> tensors;
  append_masters(optimizer, tensors);
  append_moments(optimizer, tensors);
  return tensors;
}

TrainingState read_training_state(const CheckpointManifest& manifest) {
  return training_state_from_json(manifest.state_json, manifest.directory.string());
}

void check_same_model(const CheckpointManifest& manifest, const TrainingState& state,
                      const ModelConfig& here) {
  const auto differences = model_differences(state.model, here);
  if (differences.empty()) return;
  std::string text = fmt::format("{} holds another model:", manifest.directory.string());
  for (const auto& d : differences) text += "\n  " + d;
  text += "\nTrain the model of the checkpoint, or start without --load";
  throw Error(text, ErrorScope::every_rank);
}

void load_training(const CheckpointManifest& manifest, Optimizer& optimizer, const Context& ctx, bool moments,
                   Communicator& world) {
  std::vector<CheckpointTensor> tensors;
  append_masters(optimizer, tensors);
  if (moments) append_moments(optimizer, tensors);
  load_checkpoint(manifest, tensors, world);
  optimizer.masters_to_values(ctx);
}

void load_weights(const CheckpointManifest& manifest, Transformer& model, Communicator& world) {
  Arena masters({}, MemoryTag::parameters);
  std::vector<CheckpointTensor> tensors;
  for (const auto& p : model.parameters().all())
    tensors.push_back(entry(
        p, p.name, p.value.dtype() == DType::f32 ? p.value : masters.tensor(DType::f32, p.value.shape())));
  load_checkpoint(manifest, tensors, world);
  std::size_t i = 0;
  for (const auto& p : model.parameters().all()) {
    if (p.value.dtype() != DType::f32) convert(model.context(), tensors[i].data, p.value);
    ++i;
  }
}

CheckpointManifest open_checkpoint(const std::filesystem::path& root, std::int64_t iteration) {
  return read_manifest(iteration < 0 ? root : root / fmt::format("iter_{:07d}", iteration));
}

std::filesystem::path checkpoint_tokenizer(const CheckpointManifest& manifest) {
  return manifest.directory.parent_path() / "tokenizer.json";
}

}  // namespace xmoe
