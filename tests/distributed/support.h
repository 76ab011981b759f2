// Tests of many ranks. Every rank runs the same tests in the same order; a test fails for all if it fails on
// one, and a test that hangs is ended with a message that says which rank hangs in which test and collective.
#pragma once

#include <filesystem>
#include <string>

#include "comm/communicator.h"
#include "comm/topology.h"

namespace xmoe::distributed {

Communicator& world();

// Nodes of so many ranks each while it lives.
class SimulatedNodes {
 public:
  explicit SimulatedNodes(int ranks_per_node = 2) { detect_topology(world(), ranks_per_node); }
  ~SimulatedNodes() { world().set_nodes({}); }
  SimulatedNodes(const SimulatedNodes&) = delete;
  SimulatedNodes& operator=(const SimulatedNodes&) = delete;
};

// A directory that all ranks see, empty and made anew for every object; construction and destruction are
// collective. Removed at the end unless the test failed.
class SharedDirectory {
 public:
  SharedDirectory();
  ~SharedDirectory();
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A test program's main(): starts the ranks, runs the tests, returns the exit code that all ranks agree on.
int run_tests(int argc, char** argv);

}  // namespace xmoe::distributed
