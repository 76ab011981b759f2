// The account of what a rank sends.
#pragma once

#include <cstdint>

#include "comm/communicator.h"

namespace xmoe {

// Calls fn(peer) for all other ranks, each rank beginning with another one, so that not all send to the same.
template <typename F>
void for_each_peer(const Communicator& group, F fn) {
  for (int i = 1; i < group.size(); ++i) fn((group.rank() + i) % group.size());
}

// Adds bytes(peer) for all other ranks.
template <typename F>
void count_sent(Traffic& traffic, const Communicator& group, F bytes) {
  for_each_peer(group, [&](int peer) {
    const std::int64_t sent = bytes(peer);
    traffic.bytes_sent += sent;
    if (group.on_other_node(peer)) traffic.bytes_between_nodes += sent;
  });
}

}  // namespace xmoe
