#include "comm/tcp_links.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "comm/communicator.h"

namespace xmoe::tcp {

namespace {

bool would_wait(ssize_t result) { return result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK); }

}  // namespace

Links::Links(int rank, std::vector<Rank> ranks) : rank_(rank), peers_(ranks.size()) {
  for (std::size_t r = 0; r < ranks.size(); ++r) peers_[r].identity = std::move(ranks[r]);
}

Ticket Links::send(int to, std::uint64_t group, const void* data, std::size_t bytes) {
  Peer& p = peer(to);
  p.outgoing.push_back({{Kind::data, 0, group, bytes}, static_cast<const std::byte*>(data), 0});
  return {to, true, ++p.posted_out};
}

Ticket Links::receive(int from, std::uint64_t group, void* data, std::size_t bytes) {
  Peer& p = peer(from);
  p.incoming.push_back({group, static_cast<std::byte*>(data), bytes});
  return {from, false, ++p.posted_in};
}

bool Links::done(const Ticket& ticket) const {
  const Peer& p = peer(ticket.peer);
  return ticket.number <= (ticket.outgoing ? p.sent : p.received);
}

bool Links::all_done(std::span<const Ticket> tickets) const {
  return std::all_of(tickets.begin(), tickets.end(), [this](const Ticket& t) { return done(t); });
}

void Links::wait(std::span<const Ticket> tickets) {
  while (!all_done(tickets)) move(-1);
}

bool Links::wait_for(std::chrono::milliseconds time, std::span<const Ticket> tickets) noexcept {
  const auto end = Clock::now() + time;
  try {
    while (!all_done(tickets)) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
      if (left <= 0) return false;
      move(static_cast<int>(left));
    }
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

void Links::stop() {
  if (failure_.empty()) failure_ = "an error has ended the messages of this rank";
  for (Peer& p : peers_) {
    p.outgoing.clear();
    p.incoming.clear();
  }
}

void Links::move(int timeout_ms) {
  if (!failure_.empty()) throw Error(failure_);
  std::vector<pollfd> ready(peers_.size(), {-1, 0, 0});
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    Peer& p = peers_[r];
    if (!p.identity.socket) continue;
    // One of no bytes has come as a whole, perhaps before it was asked for: nothing more would wake us.
    if (p.moved == sizeof(Header) && p.header.bytes == 0 && !p.incoming.empty()) {
      read(static_cast<int>(r));
      timeout_ms = 0;
    }
    // A message that nobody has asked for yet stays where it is, so that its sender waits.
    if (!p.waits_for_us()) ready[r].events |= POLLIN;
    if (!p.outgoing.empty()) ready[r].events |= POLLOUT;
    if (ready[r].events != 0) ready[r].fd = p.identity.socket.fd();
  }
  if (::poll(ready.data(), ready.size(), timeout_ms) < 0) {
    if (errno == EINTR) return;
    failure_ = fmt::format("waiting for messages: {}", std::strerror(errno));
    throw Error(failure_);
  }
  for (int r = 0; r < size(); ++r) {
    const short events = ready[static_cast<std::size_t>(r)].revents;
    // Reading comes first: what a rank said before it closed tells more than that it closed.
    if (events != 0 && !peer(r).waits_for_us()) read(r);
    if (events != 0 && !peer(r).outgoing.empty()) write(r);
  }
}

void Links::write(int rank) {
  Peer& p = peer(rank);
  while (!p.outgoing.empty()) {
    Outgoing& message = p.outgoing.front();
    const std::size_t total = sizeof(Header) + message.header.bytes;
    std::array<iovec, 2> pieces{};
    const std::size_t of_header = std::min(message.moved, sizeof(Header));
    const std::size_t of_data = message.moved - of_header;
    pieces[0] = {reinterpret_cast<char*>(&message.header) + of_header, sizeof(Header) - of_header};
    pieces[1] = {const_cast<std::byte*>(message.data) + of_data, message.header.bytes - of_data};
    msghdr m{};
    m.msg_iov = pieces.data();
    m.msg_iovlen = message.header.bytes > 0 ? 2 : 1;
    const ssize_t n = ::sendmsg(p.identity.socket.fd(), &m, MSG_NOSIGNAL);
    if (would_wait(n)) return;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const std::string how = std::strerror(errno);
      read(rank);  // it may have said why
      lose(rank, p.departed ? "ended" : "died", how);
    }
    message.moved += static_cast<std::size_t>(n);
    if (message.moved < total) continue;
    p.outgoing.pop_front();
    ++p.sent;
  }
}

void Links::read(int rank) {
  Peer& p = peer(rank);
  while (p.identity.socket) {
    const bool in_header = p.moved < sizeof(Header);
    if (!in_header) {
      if (p.incoming.empty()) return;
      if (p.moved == sizeof(Header)) check_expected(rank);
      if (p.moved == sizeof(Header) + p.header.bytes) {
        p.incoming.pop_front();
        ++p.received;
        p.moved = 0;
        continue;
      }
    }
    std::byte* to = in_header ? reinterpret_cast<std::byte*>(&p.header) + p.moved
                              : p.incoming.front().data + (p.moved - sizeof(Header));
    const std::size_t bytes =
        in_header ? sizeof(Header) - p.moved : sizeof(Header) + p.header.bytes - p.moved;
    const ssize_t n = ::recv(p.identity.socket.fd(), to, bytes, 0);
    if (would_wait(n)) return;
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      if (!p.departed || !p.incoming.empty() || !p.outgoing.empty())
        lose(rank, p.departed ? "ended" : "died", n < 0 ? std::strerror(errno) : "the connection is closed");
      p.identity.socket.close();  // in order, and nothing of it is missed
      return;
    }
    p.moved += static_cast<std::size_t>(n);
    if (in_header && p.moved == sizeof(Header)) take_header(rank);
  }
}

void Links::check_expected(int rank) {
  const Peer& p = peer(rank);
  const Incoming& expected = p.incoming.front();
  if (p.header.group == expected.group && p.header.bytes == expected.bytes) return;
  failure_ = fmt::format(
      "rank {} is in another collective than this rank, which is in {}: {} bytes came where {} were "
      "expected; "
      "ranks must call the same collectives in the same order",
      rank, pending_operation(), p.header.bytes, expected.bytes);
  throw InvariantError(failure_);
}

void Links::take_header(int rank) {
  Peer& p = peer(rank);
  if (p.header.kind == Kind::data) return;
  p.moved = 0;
  if (p.header.kind == Kind::goodbye) {
    p.departed = true;
    return;
  }
  const auto failed = static_cast<int>(p.header.failed);
  if (failed == rank) lose(rank, "failed", "it says so itself");
  if (failed != rank_) lose(failed, "died", fmt::format("rank {} says so", rank));
}

void Links::lose(int rank, const char* what, const std::string& how) {
  const std::string operation = pending_operation();
  failure_ =
      fmt::format("rank {} (on {}) has {} while this rank waits in {} ({})", rank, peer(rank).identity.host,
                  what, operation.empty() ? "no collective" : operation, how);
  say_failed(rank);
  throw Error(failure_);
}

void Links::say_failed(int failed) noexcept {
  const Header header = {Kind::failed, static_cast<std::uint32_t>(failed), 0, 0};
  for (const Peer& p : peers_) {
    const bool between_messages = p.outgoing.empty() || p.outgoing.front().moved == 0;
    if (p.identity.socket && between_messages)
      static_cast<void>(::send(p.identity.socket.fd(), &header, sizeof header, MSG_NOSIGNAL | MSG_DONTWAIT));
  }
}

std::vector<int> Links::say_goodbye(std::chrono::milliseconds time) noexcept {
  const auto end = Clock::now() + time;
  std::vector<int> staying;
  try {
    for (Peer& p : peers_)
      if (p.identity.socket) p.outgoing.push_back({{Kind::goodbye, 0, 0, 0}, nullptr, 0});
    for (;;) {
      staying.clear();
      bool all_told = true;
      for (int r = 0; r < size(); ++r) {
        if (!peer(r).identity.socket) continue;
        if (!peer(r).departed) staying.push_back(r);
        all_told &= peer(r).outgoing.empty();
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
      if ((staying.empty() && all_told) || left <= 0) return staying;
      move(static_cast<int>(left));
    }
  } catch (const std::exception&) {
    return {};  // whoever died has been noticed by those who needed it
  }
}

}  // namespace xmoe::tcp
