// What every command that runs a model on many ranks does first, and what a training says of itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/mesh.h"
#include "comm/topology.h"
#include "comm/watchdog.h"
#include "train/config.h"

namespace xmoe {

// Where the ranks are, which groups they form, and what ends the job when one of them hangs. Collective;
// throws Error on all ranks alike.
struct ParallelRun {
  ParallelRun(Communicator& world, const ParallelLayout& layout, std::int64_t ranks_per_node,
              double timeout_minutes);

  Topology topology;
  Mesh mesh;
  Watchdog watchdog;
};

// Puts flat or rbd in the place of `automatic`, as measured between the ranks at hand, and says so.
// Collective.
void settle_dispatcher(TrainConfig& config, const Mesh& mesh);

// The model of a checkpoint as evaluation and generation run it: how its training sent tokens and what it
// computed twice means nothing to them.
ModelConfig model_to_run(ModelConfig trained);

// What is known when everything is built and nothing is trained.
struct StartUpFacts {
  int ranks = 1;
  int threads = 1;
  std::vector<int> ranks_of_node;  // [nodes]: how many
  std::int64_t tokens_per_epoch = 0;
  std::optional<std::int64_t> validation_windows;  // unset: no validation
};
// The lines that a training begins with: model, layout, batch, data, and how FLOPs are counted.
std::vector<std::string> start_up_lines(const TrainConfig& resolved, const StartUpFacts& facts);

}  // namespace xmoe
