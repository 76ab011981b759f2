// What of a model and its optimizer goes into a checkpoint, and back.
#pragma once

#include <filesystem>
#include <vector>

#include "model/transformer.h"
#include "train/checkpoint/checkpoint.h"
#include "train/optimizer.h"
#include "train/training_state.h"

namespace xmoe {

// Parameters (their f32 masters) and moments, named after the parameters.
std::vector<CheckpointTensor> training_tensors(const Optimizer& optimizer);

// The state in the manifest, after a check that the checkpoint holds the model of `here`; Error (on all ranks
// alike) lists what differs.
TrainingState read_training_state(const CheckpointManifest& manifest);
void check_same_model(const CheckpointManifest& manifest, const TrainingState& state,
                      const ModelConfig& here);

// Masters and, with `moments`, the optimizer's state; then values from masters.
void load_training(const CheckpointManifest& manifest, Optimizer& optimizer, const Context& ctx, bool moments,
                   Communicator& world);
// Values only, for a model without optimizer.
void load_weights(const CheckpointManifest& manifest, Transformer& model, Communicator& world);

// The checkpoint at `root`, or its directory of one iteration if `iteration` is not negative. Error when it
// is not there.
CheckpointManifest open_checkpoint(const std::filesystem::path& root, std::int64_t iteration);

// Where the tokenizer that belongs to a checkpoint lies: beside the directories of iterations.
std::filesystem::path checkpoint_tokenizer(const CheckpointManifest& manifest);

}  // namespace xmoe
