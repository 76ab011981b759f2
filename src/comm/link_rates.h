// What a rank gets of the links inside a node and between nodes, when all send at once.
#pragma once

#include "comm/communicator.h"

namespace xmoe {

// Bytes per second that each rank sends while all ranks of the group exchange rows; 0 where there is no such
// link: with one node there is none between nodes, with one rank per node none within.
struct LinkRates {
  double within_node = 0;
  double between_nodes = 0;
};

// Collective; the result is the same on all ranks. Takes some tenths of a second: exchanges are repeated, the
// median counts. Nodes are those of the group (Communicator::nodes).
LinkRates measure_links(Communicator& group);

}  // namespace xmoe
