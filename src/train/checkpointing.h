// What of a model and its optimizer goes into a checkpoint, and back.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "model/transformer.h"
#include "train/checkpoint/checkpoint.h"
#include "train/optimizer.h"
#include "train/training_state.h"

namespace xmoe {

// Parameters (their f32 masters) and moments, named after the parameters.
std::vector<CheckpointTensor> training_tensors(const Optimizer& optimizer);

struct OpenCheckpoint {
  CheckpointManifest manifest;
  TrainingState state;
};

// Collective. The checkpoint at `root`: rank 0 finds it, all ranks read that one, and throw Error together
// when some cannot or what they read differs. Nothing when rank 0 finds none.
std::optional<OpenCheckpoint> find_checkpoint(const std::filesystem::path& root, Communicator& world);
// The same for its directory of one iteration if `iteration` is not negative; Error when it is not there.
OpenCheckpoint open_checkpoint(const std::filesystem::path& root, std::int64_t iteration,
                               Communicator& world);

// Throws Error (on all ranks alike), listing what differs, unless the checkpoint holds the model of `here`. A
// vocabulary of another size, in an embedding of the same, is another model as well, but for --finetune.
void check_same_model(const OpenCheckpoint& checkpoint, const TrainConfig& here);
// Settings that may change when a training goes on, but with consequences: a sentence for each that has.
std::vector<std::string> changes_on_resume(const TrainingState& checkpoint, const TrainingState& here);

// Parameters and, with `moments`, the optimizer's state.
void load_training(const CheckpointManifest& manifest, Optimizer& optimizer, bool moments,
                   Communicator& world);
// Values only, for a model without optimizer.
void load_weights(const CheckpointManifest& manifest, Transformer& model, Communicator& world);

// A checkpoint is used with its tokenizer, which lies beside the directories of iterations.
inline constexpr const char* kTokenizerFile = "tokenizer.json";

// Makes `directory` ready for checkpoints: creates it, tries to write, puts the tokenizer there (nothing if
// its text is empty). `goes_on`: the training was loaded from there. Error when that cannot be done, when
// another training's checkpoints are there, which this one's would replace, or for another tokenizer than
// theirs. Not collective.
void prepare_save_directory(const std::filesystem::path& directory, const std::string& tokenizer_json,
                            bool goes_on);

// The tokenizer at `given`, or if that is empty the one of the checkpoint; nothing if it has none. Error when
// its tokens are more than the model was trained with. Not collective.
std::optional<Tokenizer> load_tokenizer(const OpenCheckpoint& checkpoint, const std::filesystem::path& given);

}  // namespace xmoe
