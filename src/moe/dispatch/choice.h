// Whether rows should go straight to their experts (flat) or in two stages (rbd): decided by trying both.
#pragma once

#include <cstdint>
#include <string>

#include "moe/dispatch/dispatcher.h"

namespace xmoe {

struct DispatcherChoice {
  DispatcherKind kind = DispatcherKind::flat;  // flat or rbd
  std::string why;                             // one line for the log
  double flat_seconds = 0, rbd_seconds = 0;    // of dispatch and combine as tried; 0 if not tried
};

// Collective over `ep`; all its ranks get the same answer. Dispatches and combines rows of a uniform routing
// of config.router's shape with either dispatcher, in turns, for some seconds at most: fewer tokens than
// asked for where the network is slow. Measures the links as well, for the log. Takes the flat one without
// measuring when ep is one rank.
DispatcherChoice choose_dispatcher(Communicator& ep, Communicator& ep_node, const MoeConfig& config,
                                   std::int64_t tokens,  // of a rank in one MoE layer
                                   std::int64_t hidden, DType dtype,
                                   const Device& device = {});  // that the rows are on

}  // namespace xmoe
