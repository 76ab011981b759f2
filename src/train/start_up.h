// What every command that runs a model on many ranks does first, and what a training says of itself.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/mesh.h"
#include "comm/topology.h"
#include "comm/watchdog.h"
#include "moe/dispatch/choice.h"
#include "train/config.h"

namespace xmoe {

// Where the ranks are, which groups they form, and what ends the job when one of them hangs. Collective;
// throws Error on all ranks alike.
struct ParallelRun {
  ParallelRun(Communicator& host_world, const DeviceConfig& device, const ParallelLayout& layout,
              std::int64_t ranks_per_node, double timeout_minutes);

  Device device;
  std::unique_ptr<Communicator> world;  // the same ranks, with collectives of tensors on the device
  Topology topology;
  Mesh mesh;
  Watchdog watchdog;
};

// Puts flat or rbd in the place of `automatic`, as measured between the ranks at hand, and says so.
// Collective.
void settle_dispatcher(TrainConfig& config, const Mesh& mesh, const Device& device);

// What the log says of it: the kind taken and why, where `choice` is that of this rank's group.
std::string dispatcher_line(const DispatcherChoice& choice, DispatcherKind taken);

// The model of a checkpoint as evaluation and generation run it: how its training sent tokens and what it
// computed twice means nothing to them.
ModelConfig model_to_run(ModelConfig trained);

// What is known when everything is built and nothing is trained.
struct StartUpFacts {
  Topology topology;
  int threads = 1;  // of a rank
  int cores = 0;    // of this machine; 0: unknown
  std::int64_t tokens_per_epoch = 0;
  std::optional<std::int64_t> validation_windows;  // unset: no validation
};
// What a training begins with: a line each on model, layout, batch, data and how FLOPs are counted; with a
// capacity a line on what is dropped, and of several ranks the mesh and who sits where.
std::vector<std::string> start_up_lines(const TrainConfig& resolved, const StartUpFacts& facts);
// What a user of these settings may not have wanted.
std::vector<std::string> start_up_warnings(const TrainConfig& resolved, const StartUpFacts& facts);

}  // namespace xmoe
