// What a checkpoint says besides its tensors: how far training has come, and what was trained. Kept as JSON
// in the manifest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/config.h"
#include "train/loss_scaler.h"

namespace xmoe {

struct TrainingState {
  std::int64_t iteration = 0;
  std::int64_t consumed_samples = 0;
  std::int64_t optimizer_steps = 0;     // updates made: less than iterations where some were skipped
  std::int64_t skipped_iterations = 0;  // for a loss or gradient that was not finite
  std::int64_t scheduled_samples = 0;   // of the iterations that were not skipped: the learning rate's course
  std::optional<LossScaler::State> loss_scaler;  // where the loss was scaled dynamically
  std::string data_fingerprint;  // of the blend and its files: the order of samples depends on it
  TrainConfig config;            // resolved; kept as the text that --config reads
};

std::string to_json(const TrainingState& state);
// Throws Error, naming `source`, when the text is not such a state.
TrainingState training_state_from_json(const std::string& text, const std::string& source);

// "--hidden-size: 256 in the checkpoint, 512 here", a line for every setting in which the models of two
// resolved configurations differ. Settings without effect (of experts in a dense model) do not count.
std::vector<std::string> model_differences(const TrainConfig& checkpoint, const TrainConfig& here);

}  // namespace xmoe
