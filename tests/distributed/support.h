// Tests of many ranks. Every rank runs the same tests in the same order; a test fails for all if it fails on
// one, and a test that hangs is ended with a message that says which rank hangs in which test and collective.
#pragma once

#include <filesystem>
#include <string>

#include "comm/communicator.h"
#include "comm/device_communicator.h"
#include "comm/topology.h"

namespace xmoe::distributed {

Communicator& world();

// The group whose collectives are tested, and over which layers and trainings are laid out: the host's, or
// with XMOE_TEST_COLLECTIVES=nccl (or staged) in the environment that of GPUs, which ranks share where there
// are too few.
Communicator& tested();
const Device& tested_device();
bool sums_in_rank_order();  // all but NCCL

// What GPU this rank uses, and how, by the environment; CPU: none.
struct TestedBackend {
  Device device;
  DeviceBackend backend = DeviceBackend::nccl;
};
TestedBackend backend_of_environment(int rank);

// 0 where the device can be used; else says why, and returns what the program ends with: kSkipped, or a
// failure under XMOE_REQUIRE_GPU.
int status_without(const Device& device, int rank);
inline constexpr int kSkipped = 77;

// A tensor of the tested device with the contents of one of the host; there, the same tensor.
class Mirror {
 public:
  explicit Mirror(const Tensor& host);
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  const Tensor& tensor() const { return there_; }
  void fetch() const;  // brings the contents to the host

 private:
  Tensor host_;
  Tensor there_;
};

// Nodes of so many ranks each while it lives.
class SimulatedNodes {
 public:
  explicit SimulatedNodes(int ranks_per_node = 2) { detect_topology(tested(), ranks_per_node); }
  ~SimulatedNodes() { tested().set_nodes({}); }
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
