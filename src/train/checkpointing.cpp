#include "train/checkpointing.h"

#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "train/checkpoint/manifest.h"
#include "train/together.h"

namespace xmoe {

namespace {

CheckpointTensor entry(const Parameter& p, const std::string& name, const HeldElements& held) {
  return {.name = name,
          .data = held.data,
          .remainder = held.remainder,
          .global_shape = p.global_shape,
          .sharding = p.sharding,
          .replication = p.replication};
}

CheckpointTensor entry(const Optimizer& optimizer, const Optimizer::State& s, const std::string& suffix,
                       const HeldElements& held) {
  CheckpointTensor tensor = entry(*s.parameter, s.parameter->name + suffix, held);
  tensor.begin = s.begin;
  tensor.exclusive = optimizer.sharded() && s.parameter->trainable;
  return tensor;
}

void append_masters(const Optimizer& optimizer, std::vector<CheckpointTensor>& tensors) {
  for (const auto& s : optimizer.states()) tensors.push_back(entry(optimizer, s, "", {s.value, s.remainder}));
}

void append_moments(const Optimizer& optimizer, std::vector<CheckpointTensor>& tensors) {
  for (const auto& s : optimizer.states()) {
    if (!s.parameter->trainable) continue;
    tensors.push_back(entry(optimizer, s, kFirstMomentSuffix, {s.m, {}}));
    tensors.push_back(entry(optimizer, s, kSecondMomentSuffix, {s.v, {}}));
  }
}

}  // namespace

std::vector<CheckpointTensor> training_tensors(const Optimizer& optimizer) {
  std::vector<CheckpointTensor> tensors;
  append_masters(optimizer, tensors);
  append_moments(optimizer, tensors);
  return tensors;
}

std::optional<OpenCheckpoint> find_checkpoint(const std::filesystem::path& root, Communicator& world) {
  std::string directory;
  together(world, [&] {
    if (world.rank() == 0) directory = find_checkpoint(root).value_or("").string();
  });
  directory = world.all_gather_text(directory).front();
  if (directory.empty()) return std::nullopt;
  OpenCheckpoint checkpoint;
  together(world, [&] {
    checkpoint.manifest = read_manifest(directory);
    checkpoint.state = training_state_from_json(checkpoint.manifest.state_json, directory);
  });
  expect_same(world, "the checkpoint " + directory,
              fmt::format("iteration {}, checksum of the manifest {:016x}", checkpoint.manifest.iteration,
                          hash64(manifest_text(checkpoint.manifest))),
              "Load from a directory that all ranks share");
  return checkpoint;
}

OpenCheckpoint open_checkpoint(const std::filesystem::path& root, std::int64_t iteration,
                               Communicator& world) {
  const auto path = iteration < 0 ? root : root / checkpoint_name(iteration);
  auto checkpoint = find_checkpoint(path, world);
  if (!checkpoint) {
    std::string others;
    if (iteration >= 0)
      for (const auto& other : list_checkpoints(root)) others += " " + other.filename().string();
    fail_everywhere("no checkpoint in {}: {}", path.string(),
                    others.empty() ? "give the --save directory of a training" : "there are" + others);
  }
  return std::move(*checkpoint);
}

void check_same_model(const OpenCheckpoint& checkpoint, const TrainConfig& here) {
  const TrainConfig& there = checkpoint.state.config;
  auto differences = model_differences(there, here);
  if (there.data.vocab_size != here.data.vocab_size && !here.checkpoint.finetune)
    differences.push_back(fmt::format(
        "--vocab-size, or the tokens of the tokenizer: {} in the checkpoint, {} here (--finetune allows it)",
        there.data.vocab_size, here.data.vocab_size));
  if (differences.empty()) return;
  std::string text = fmt::format("{} holds another model:", checkpoint.manifest.directory.string());
  for (const auto& d : differences) text += "\n  " + d;
  text += "\nTrain the model of the checkpoint, or start without --load and --save to another directory";
  throw Error(text, ErrorScope::every_rank);
}

std::vector<std::string> changes_on_resume(const TrainingState& checkpoint, const TrainingState& here) {
  std::vector<std::string> changes;
  const TrainConfig& there = checkpoint.config;
  if (checkpoint.data_fingerprint != here.data_fingerprint)
    changes.push_back(
        fmt::format("the data is not that of the checkpoint: training goes on at sample {} of the new order",
                    checkpoint.consumed_samples));
  if (there.seed != here.config.seed)
    changes.push_back(
        fmt::format("--seed {} is not that of the checkpoint ({}): the order of samples changes",
                    here.config.seed, there.seed));
  if (there.data.split != here.config.data.split) {
    const auto& a = there.data.split;
    const auto& b = here.config.data.split;
    changes.push_back(fmt::format(
        "--split {},{},{} is not that of the checkpoint ({},{},{}): the order of samples changes, and "
        "validation may meet what was trained on",
        b[0], b[1], b[2], a[0], a[1], a[2]));
  }
  if (there.compute_dtype != here.config.compute_dtype)
    changes.push_back(fmt::format("training goes on in {}; up to the checkpoint it was in {}",
                                  name_of(here.config.compute_dtype), name_of(there.compute_dtype)));
  const auto moment = [&](const char* flag, DType before, DType now) {
    if (before == now) return;
    changes.push_back(fmt::format("{} {} is not that of the checkpoint ({}): moments are {}", flag,
                                  now == DType::f32 ? "fp32" : "bf16", before == DType::f32 ? "fp32" : "bf16",
                                  now == DType::f32 ? "widened" : "rounded"));
  };
  moment("--exp-avg-dtype", there.optimizer.exp_avg_dtype, here.config.optimizer.exp_avg_dtype);
  moment("--exp-avg-sq-dtype", there.optimizer.exp_avg_sq_dtype, here.config.optimizer.exp_avg_sq_dtype);
  return changes;
}

void load_training(const CheckpointManifest& manifest, Optimizer& optimizer, bool moments,
                   Communicator& world) {
  std::vector<CheckpointTensor> tensors;
  append_masters(optimizer, tensors);
  if (moments) append_moments(optimizer, tensors);
  load_checkpoint(manifest, tensors, world);
  optimizer.gather_values();
}

void load_weights(const CheckpointManifest& manifest, Transformer& model, Communicator& world) {
  std::vector<CheckpointTensor> tensors;
  for (const auto& p : model.parameters().all()) tensors.push_back(entry(p, p.name, {p.value, {}}));
  load_checkpoint(manifest, tensors, world);
}

void prepare_save_directory(const std::filesystem::path& directory, const std::string& tokenizer_json,
                            bool goes_on) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    fail("--save {} cannot be created: {}; choose another directory", directory.string(), error.message());
  const auto probe = directory / ".xmoe-writable";
  try {
    write_file_atomically(probe, "");
  } catch (const Error& reason) {
    fail("--save {} cannot be written to: {}", directory.string(), reason.what());
  }
  std::filesystem::remove(probe, error);
  if (const auto there = list_checkpoints(directory); !goes_on && !there.empty())
    fail(
        "--save {} holds checkpoints of another training, up to {}: go on with it by --load {}, or --save to "
        "another directory",
        directory.string(), there.back().filename().string(), directory.string());
  if (tokenizer_json.empty()) return;
  const auto path = directory / kTokenizerFile;
  if (std::filesystem::exists(path)) {
    std::string there;
    try {
      there = Tokenizer::load(path).json();  // as the program writes it, whoever wrote the file
    } catch (const Error&) {
      there.clear();  // none that it can use: another one
    }
    if (there == tokenizer_json) return;
    if (goes_on)
      fail("{} is another tokenizer than --tokenizer: give that one, or --save to another directory",
           path.string());
  }
  write_file_atomically(path, tokenizer_json);
}

std::optional<Tokenizer> load_tokenizer(const OpenCheckpoint& checkpoint,
                                        const std::filesystem::path& given) {
  auto path = given;
  if (path.empty()) {
    path = std::filesystem::absolute(checkpoint.manifest.directory).parent_path() / kTokenizerFile;
    if (!std::filesystem::exists(path)) return std::nullopt;
  }
  Tokenizer tokenizer = Tokenizer::load(path);
  if (tokenizer.vocab_size() > checkpoint.state.config.data.vocab_size)
    fail(
        "{} has {} tokens, the model of {} was trained with {}: give the tokenizer it was trained with as "
        "--tokenizer",
        path.string(), tokenizer.vocab_size(), checkpoint.manifest.directory.string(),
        checkpoint.state.config.data.vocab_size);
  return tokenizer;
}

}  // namespace xmoe
