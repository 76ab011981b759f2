// What an emulated cluster (tools/cluster.sh) must be like, checked by its ranks:
//
//   topology_check NODES RANKS_PER_NODE MEGABITS
//
// ranks of a node share memory and nothing else does; nodes have names of their own; what is exchanged
// between nodes goes over their links, what stays on a node does not; and the links keep to their limit.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/timer.h"
#include "bench/support/link_counters.h"
#include "comm/topology.h"
#include "device/arena.h"

namespace {

using namespace xmoe;

constexpr std::int64_t kRowBytes = 4096;
constexpr std::int64_t kRows = 256;  // to each rank: 1 MiB

void check_topology(Communicator& world, int nodes, int ranks_per_node) {
  const Topology topology = detect_topology(world);
  if (world.size() != nodes * ranks_per_node)
    fail_everywhere("{} ranks, expected {} x {}", world.size(), nodes, ranks_per_node);
  if (topology.nodes() != nodes)
    fail_everywhere("{} nodes by shared memory, expected {}", topology.nodes(), nodes);
  for (int rank = 0; rank < world.size(); ++rank) {
    const int node = topology.node_of[static_cast<std::size_t>(rank)];
    if (node != rank / ranks_per_node)
      fail_everywhere("rank {} is on node {}, expected {}", rank, node, rank / ranks_per_node);
  }
  for (int node = 0; node < nodes; ++node) {
    const std::string& name = topology.host_names[static_cast<std::size_t>(node)];
    if (name != fmt::format("node{}", node)) fail_everywhere("node {} is called '{}'", node, name);
  }
}

struct Sent {
  double link = 0.0;   // bytes by the interface of this rank's node
  double count = 0.0;  // bytes that the ranks of this node sent to other nodes, by their own count
  double seconds = 0.0;
};

// Every rank sends kRows rows to the ranks that `wanted` says.
template <typename Wanted>
Sent exchange(Communicator& world, Communicator& node, const Wanted& wanted) {
  std::vector<std::int64_t> rows;
  std::int64_t total = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    rows.push_back(wanted(rank) ? kRows : 0);
    total += rows.back();
  }
  Arena memory({}, MemoryTag::workspace);
  const Tensor send = memory.zeros(DType::u8, {total, kRowBytes});
  const Tensor recv = memory.zeros(DType::u8, {total, kRowBytes});
  world.barrier();
  const std::int64_t before = *link_bytes_sent();
  const std::int64_t counted = world.traffic().bytes_between_nodes;
  world.barrier();
  const Timer timer;
  world.all_to_all_v(send, rows, recv, rows);
  world.barrier();  // all has arrived
  Sent sent;
  sent.seconds = timer.seconds();
  sent.link = static_cast<double>(*link_bytes_sent() - before);
  sent.count =
      node.all_reduce(static_cast<double>(world.traffic().bytes_between_nodes - counted), ReduceOp::sum);
  return sent;
}

void check_link(Communicator& world, double megabits) {
  if (!link_bytes_sent()) fail_everywhere("XMOE_LINK_INTERFACE is not set: start this with tools/cluster.sh");
  const auto node = world.split_by_memory("node");
  const auto to_all = [](int) { return true; };
  exchange(world, *node, to_all);  // connections are made

  const Sent across = exchange(world, *node, to_all);
  const double payload =
      static_cast<double>((world.size() - node->size()) * node->size() * kRows * kRowBytes);
  if (across.count != payload) fail("counted {} bytes between nodes, expected {}", across.count, payload);
  // Headers of packets of 9000 bytes are 0.7 %, acknowledgements as much again; the rest is leeway.
  if (across.link < payload || across.link > 1.04 * payload)
    fail("{:.0f} bytes went over the link, expected {:.0f} and at most 4 % more", across.link, payload);
  // One burst may leave at once.
  const double least = 0.95 * (8e-6 * payload / megabits) - 0.01;
  if (across.seconds < least)
    fail("{:.0f} bytes took {:.3f} s, at {} Mbit/s they take {:.3f}", payload, across.seconds, megabits,
         least);

  const Sent within = exchange(world, *node, [&](int rank) { return !world.on_other_node(rank); });
  if (within.count != 0.0) fail("counted {} bytes between nodes, none were sent", within.count);
  // The barriers; a single row would already be more than a few of their messages.
  if (within.link > 0.01 * static_cast<double>(kRows * kRowBytes))
    fail("{:.0f} bytes went over the link although every rank sent to its own node only", within.link);
  if (world.rank() == 0)
    fmt::print(
        "{} ranks: {:.0f} bytes over the link of node 0, {:.2f} % more than their contents, in {:.3f} s\n",
        world.size(), across.link, 100.0 * (across.link / payload - 1.0), across.seconds);
}

}  // namespace

int main(int argc, char** argv) {
  CommunicationSession session(&argc, &argv);
  log::set_rank(session.world().rank(), session.world().size());
  try {
    if (argc != 4) fail_everywhere("usage: topology_check NODES RANKS_PER_NODE MEGABITS");
    check_topology(session.world(), std::atoi(argv[1]), std::atoi(argv[2]));
    check_link(session.world(), std::atof(argv[3]));
  } catch (const std::exception& error) {
    log::write_error(error.what());
    session.abort(1);
  }
  return 0;
}
