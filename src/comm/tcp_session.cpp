// Start and end of the message layer over TCP.
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "comm/tcp_backend.h"

namespace xmoe::tcp {

namespace {

// What the other ranks get to end after this one.
constexpr std::chrono::seconds kLongestEnd(120);

std::shared_ptr<Links> links;  // of this process

}  // namespace

std::unique_ptr<Communicator> start(const Launch& launch) {
  if (launch.world_size == 1) return make_self_communicator();
  links = std::make_shared<Links>(launch.rank, rendezvous(launch));
  return make_world(links);
}

void finish() noexcept {
  if (links == nullptr) return;
  // One that hangs, or left the common order of collectives, would keep the job from ending, and nobody would
  // know.
  const std::vector<int> staying = links->say_goodbye(kLongestEnd);
  links.reset();
  if (staying.empty()) return;
  std::fprintf(stderr, "xmoe: still waiting for rank %d to end\n", staying.front());
  std::_Exit(1);
}

void abort(int exit_code) noexcept {
  if (links != nullptr) links->say_failed(links->rank());
  std::_Exit(exit_code);
}

}  // namespace xmoe::tcp
