// What a model needs of a rank's memory, worked out before there is one: parameters and gradients exactly,
// what a micro-batch keeps for backward exactly as far as the choice of experts allows, workspace as an
// estimate that is not too low.
//
// Rows of experts are taken to be even over ranks: each computes as many as it routes. The worst choice, all
// tokens of the group at the experts of one rank, brings that rank as many rows as the group has ranks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/device.h"
#include "model/config.h"
#include "model/parameter_set.h"

namespace xmoe {

struct ModelMemory {
  std::size_t parameters = 0;  // values, tables, and the sums of the routers
  std::size_t gradients = 0;
  std::size_t saved = 0;      // for backward, of one micro-batch
  std::size_t workspace = 0;  // at its highest
};

// The parameters of a model in the places that a rank gives them, without memory.
ParameterSet plan_parameters(const ModelConfig& config, DType dtype, const Placement& placement);

// Of training with micro-batches of so many sequences of a tensor-parallel group.
ModelMemory plan_memory(const ModelConfig& config, DType dtype, const Placement& placement,
                        std::int64_t micro_batch, Device::Kind device);

// Bytes of what lies beside the parameters: the rotary table and the sums of the routers.
std::size_t table_bytes(const ModelConfig& config);

}  // namespace xmoe
