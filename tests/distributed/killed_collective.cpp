// What killed_collective.sh runs under the launcher: rounds of one kind of collective, in one of which the
// last rank does not join.
//   killed_collective OPERATION GROUP killed    it is killed
//   killed_collective OPERATION GROUP hangs     it sleeps; the limit for a collective is 2 s
//   killed_collective OPERATION GROUP late      all are asked to stop, and it comes after a while: all is
//   well
// On GPUs with XMOE_TEST_COLLECTIVES, as the tests of collectives. GROUP is world, or half: the ranks of
// either half of the world, of which only that of the last rank is held up.
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/profile.h"
#include "comm/watchdog.h"
#include "distributed/support.h"
#include "train/signals.h"

namespace xmoe {
namespace {

constexpr std::int64_t kRows = 50000;  // for each rank: too many to be sent before the receiver is there

void fail_to_join(Communicator& world, const std::string& how) {
  if (how == "late") std::raise(SIGTERM);
  if (world.rank() != world.size() - 1) return;
  if (how == "killed") std::raise(SIGKILL);
  // Longer than a watchdog needs to take a late rank for a dead one.
  std::this_thread::sleep_for(how == "late" ? std::chrono::milliseconds(1500) : std::chrono::hours(1));
}

int run(Communicator& world, const std::string& operation, const std::string& group_name,
        const std::string& how) {
  const auto tested = distributed::backend_of_environment(world.rank());
  if (const int status = distributed::status_without(tested.device, world.rank()); status != 0) return status;
  watch_stop_signals();
  WatchdogOptions options;
  options.limit_seconds = how == "hangs" ? 2 : 60;
  options.stopping = [] { return stop_signal() != 0; };
  const Watchdog watchdog(world, options);

  const auto everyone = make_device_communicator(world, tested.device, tested.backend);
  const auto half = everyone->split(2 * world.rank() / world.size(), world.rank(), "half");
  Communicator& group = group_name == "half" ? *half : *everyone;

  const auto ranks = static_cast<std::size_t>(group.size());
  Arena memory(tested.device, MemoryTag::communication);
  const Tensor whole = memory.zeros(DType::f32, {kRows * group.size()});
  const Tensor other = memory.zeros(DType::f32, whole.shape());
  const Tensor part = other.slice(0, kRows);
  const std::vector<std::int64_t> rows(ranks, kRows);
  const ExchangePart exchanged = {whole, rows, other, rows};
  for (int round = 0; round < 3; ++round) {
    const profile::LayerScope layer(round);
    const bool last = round == 2;
    if (last && operation != "broadcast") fail_to_join(world, how);
    if (operation == "all_reduce") {
      group.all_reduce(whole, ReduceOp::sum);
    } else if (operation == "all_gather") {
      group.all_gather(part, whole);
    } else if (operation == "reduce_scatter") {
      group.reduce_scatter(whole, part);
    } else if (operation == "start_all_gather") {
      group.start_all_gather(part, whole)->wait();
    } else if (operation == "start_reduce_scatter") {
      group.start_reduce_scatter(whole, part)->wait();
    } else if (operation == "broadcast") {
      // From the one that does not join: a root does not wait for those that it sends to.
      if (last) fail_to_join(world, how);
      group.broadcast(whole, group.size() - 1);
    } else if (operation == "all_to_all_v") {
      group.all_to_all_v(whole, rows, other, rows);
    } else if (operation == "exchange") {
      group.start_exchange({&exchanged, 1})->wait();
    } else if (operation == "barrier") {
      group.barrier();
    } else {
      fail("no operation {}", operation);
    }
    synchronize(tested.device);
  }
  return 0;
}

}  // namespace
}  // namespace xmoe

int main(int argc, char** argv) {
  xmoe::CommunicationSession session(&argc, &argv);
  try {
    if (argc != 4) xmoe::fail("usage: killed_collective OPERATION world|half killed|hangs|late");
    return xmoe::run(session.world(), argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    xmoe::log::error("{}", error.what());
    session.abort(1);
  }
}
