// Sockets of the TCP backend, and framed texts on them while ranks find each other.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace xmoe::tcp {

using Clock = std::chrono::steady_clock;

// Owns a file descriptor; none when it is negative.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
};

// Listens on all interfaces; port 0: any free one. No socket when the port is taken; throws Error on anything
// else.
Socket listen_on(int port);
int port_of(const Socket& socket);

// No socket when there was no connection by then; `why` says what the system said.
Socket connect_to(const std::string& host, int port, Clock::time_point deadline, std::string& why);
// The next connection; no socket when there is none by then.
Socket accept_from(const Socket& listener, Clock::time_point deadline);

// The address of the other end as a number; empty when it is on this machine.
std::string remote_address_of(const Socket& socket);
// Whether the other end has closed the connection, leaving nothing to be read.
bool closed_by_peer(const Socket& socket);

// Framed texts. Nothing, or false, when the other end closed, did not speak this way or was too slow.
bool send_text(const Socket& socket, const std::string& text, Clock::time_point deadline);
std::optional<std::string> receive_text(const Socket& socket, Clock::time_point deadline);

// For the time after: reads and writes that do not wait, small messages sent at once, and a machine that
// disappeared noticed within a minute or two of silence.
void prepare_for_messages(const Socket& socket);

}  // namespace xmoe::tcp
