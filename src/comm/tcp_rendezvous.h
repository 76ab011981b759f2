// How processes that torchrun started find each other.
//
// torchrun gives each process RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; rank 0 runs on MASTER_ADDR. But
// on MASTER_PORT torchrun's own store may listen (TORCHELASTIC_USE_AGENT_STORE=True), whose protocol belongs
// to PyTorch and changes with it. So rank 0 listens on the first free one of the kPorts ports from
// MASTER_PORT on (behind it, where the store has it), and the others try these in turn, with the identity of
// the job (its name, its ports, how often it was restarted), until the rank 0 of their job answers. It tells
// all where each rank listens; then every pair of ranks is connected. Without torchrun the same four
// variables do, set by hand or by a script.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/tcp_socket.h"

namespace xmoe::tcp {

inline constexpr int kPorts = 16;

struct Launch {
  int rank = 0;
  int world_size = 1;
  std::string master;     // MASTER_ADDR
  int port = 0;           // the first that rank 0 tries
  std::string job;        // the same text on all ranks of a job, and on no other
  double patience = 300;  // seconds until all must have come
};

// The process's environment, or that of a test; empty: not set.
using Environment = std::function<std::string(const char*)>;

// Whether a launcher of this kind started the process.
bool launched(const Environment& environment);
// Throws Error naming the variable that is missing or makes no sense.
Launch read_launch(const Environment& environment);

struct Rank {
  std::string host;    // its name, for people
  std::string memory;  // equal on ranks that share memory
  Socket socket;       // none for this process
};

// One entry per rank. Throws Error when the ranks do not come together: too late, twice, or with another
// number of ranks.
std::vector<Rank> rendezvous(const Launch& launch);

}  // namespace xmoe::tcp
