// Messages between this process and each other one, over a socket for each.
//
// Messages of a pair of ranks arrive in the order in which they were sent, and are received in the order in
// which receives were posted: ranks call the same collectives in the same order, so the two agree. Each
// message says of which group it is and how long; one that is not what was expected is the mark of ranks that
// have left the common order. All of a process's messages move whenever it waits for any of them, both ways
// at once: nobody waits for a peer that waits for him.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "comm/tcp_rendezvous.h"

namespace xmoe::tcp {

// A message under way.
struct Ticket {
  int peer = 0;
  bool outgoing = false;
  std::uint64_t number = 0;  // of those of the peer in that direction
};

class Links {
 public:
  Links(int rank, std::vector<Rank> ranks);
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(peers_.size()); }
  const std::string& memory_of(int rank) const { return peer(rank).identity.memory; }

  // To or from another rank. The bytes must stay until the message has been waited for.
  Ticket send(int to, std::uint64_t group, const void* data, std::size_t bytes);
  Ticket receive(int from, std::uint64_t group, void* data, std::size_t bytes);

  // Moves what can be moved at once.
  void progress() { move(0); }
  // Throws Error when one of the ranks has ended, died or left the common order, and ever after.
  void wait(std::span<const Ticket> tickets);
  // The same, but gives up after some time, or on an error: whether all have arrived.
  bool wait_for(std::chrono::milliseconds time, std::span<const Ticket> tickets) noexcept;
  // Nothing moves any more: buffers of messages under way may go.
  void stop();

  // Tells the others that this process ends in order, and waits until they do. The ranks that did not in that
  // time.
  std::vector<int> say_goodbye(std::chrono::milliseconds time) noexcept;
  // Tells the others that `failed` has failed, as far as that does not take waiting.
  void say_failed(int failed) noexcept;

 private:
  enum class Kind : std::uint32_t { data, goodbye, failed };
  struct Header {
    Kind kind = Kind::data;
    std::uint32_t failed = 0;  // the rank
    std::uint64_t group = 0;
    std::uint64_t bytes = 0;
  };
  struct Outgoing {
    Header header;
    const std::byte* data = nullptr;
    std::size_t moved = 0;  // of header and data
  };
  struct Incoming {
    std::uint64_t group = 0;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };
  struct Peer {
    Rank identity;
    std::deque<Outgoing> outgoing;
    std::deque<Incoming> incoming;
    std::uint64_t posted_out = 0, posted_in = 0, sent = 0, received = 0;
    Header header;          // of the message that is arriving
    std::size_t moved = 0;  // of its header and data
    bool departed = false;  // it said goodbye
    bool waits_for_us() const { return moved >= sizeof(Header) && incoming.empty(); }
  };

  Peer& peer(int rank) { return peers_[static_cast<std::size_t>(rank)]; }
  const Peer& peer(int rank) const { return peers_[static_cast<std::size_t>(rank)]; }
  bool done(const Ticket& ticket) const;
  bool all_done(std::span<const Ticket> tickets) const;
  void move(int timeout_ms);
  void write(int rank);
  void read(int rank);
  void check_expected(int rank);  // what has begun to arrive against what was posted
  void take_header(int rank);
  [[noreturn]] void lose(int rank, const char* what, const std::string& how);

  int rank_;
  std::vector<Peer> peers_;
  std::string failure_;  // why nothing moves any more
};

}  // namespace xmoe::tcp
