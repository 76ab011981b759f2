#include "comm/tcp_socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace xmoe::tcp {

namespace {

// Begins every frame: what speaks another way is told apart.
constexpr std::uint32_t kMagic = 0x656f6d78;  // "xmoe"
// The table of some ten thousand ranks; what claims to be longer is not ours.
constexpr std::uint32_t kLongestText = 16U << 20;

struct Frame {
  std::uint32_t magic = kMagic;
  std::uint32_t bytes = 0;
};

std::string error_text(int code) { return std::strerror(code); }

void set(const Socket& socket, int level, int option, int value) {
  ::setsockopt(socket.fd(), level, option, &value, sizeof value);
}

void set_blocking(const Socket& socket, bool blocking) {
  const int flags = ::fcntl(socket.fd(), F_GETFL);
  ::fcntl(socket.fd(), F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

// Whether the socket is ready for `events` by then.
bool wait_for(const Socket& socket, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count() + 1;
    pollfd ready = {socket.fd(), events, 0};
    const int n = ::poll(&ready, 1, static_cast<int>(std::clamp<long>(left, 0, 1000000)));
    if (n > 0) return true;
    if ((n == 0 && Clock::now() >= deadline) || (n < 0 && errno != EINTR)) return false;
  }
}

bool send_all(const Socket& socket, const void* data, std::size_t bytes, Clock::time_point deadline) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    if (!wait_for(socket, POLLOUT, deadline)) return false;
    const ssize_t n = ::send(socket.fd(), next, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (n <= 0) continue;
    next += n;
    bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

bool receive_all(const Socket& socket, void* data, std::size_t bytes, Clock::time_point deadline) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    if (!wait_for(socket, POLLIN, deadline)) return false;
    const ssize_t n = ::recv(socket.fd(), next, bytes, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (n < 0) continue;
    next += n;
    bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

// The number of an address, without the wrapping of an IPv4 one in IPv6.
std::string number_of(const sockaddr_storage& address, socklen_t length) {
  std::array<char, NI_MAXHOST> text{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, text.data(), text.size(), nullptr, 0,
                    NI_NUMERICHOST) != 0)
    return {};
  const std::string number = text.data();
  constexpr std::string_view kWrapped = "::ffff:";
  return number.starts_with(kWrapped) ? number.substr(kWrapped.size()) : number;
}

Socket try_to_connect(const addrinfo& to, Clock::time_point deadline, std::string& why) {
  Socket socket(::socket(to.ai_family, to.ai_socktype | SOCK_CLOEXEC, to.ai_protocol));
  if (!socket) {
    why = error_text(errno);
    return {};
  }
  set_blocking(socket, false);
  int error = ::connect(socket.fd(), to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    error = ETIMEDOUT;
    socklen_t length = sizeof error;
    if (wait_for(socket, POLLOUT, deadline)) ::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error != 0) {
    why = error_text(error);
    return {};
  }
  set_blocking(socket, true);
  return socket;
}

}  // namespace

void Socket::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Socket listen_on(int port) {
  // One socket for both families; machines without IPv6 get one for IPv4.
  for (const int family : {AF_INET6, AF_INET}) {
    Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) continue;
    // A port on which an earlier run has just ended is free.
    set(socket, SOL_SOCKET, SO_REUSEADDR, 1);
    sockaddr_storage any{};
    socklen_t length = 0;
    if (family == AF_INET6) {
      set(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
      auto& address = reinterpret_cast<sockaddr_in6&>(any);
      address.sin6_family = AF_INET6;
      address.sin6_port = htons(static_cast<std::uint16_t>(port));
      length = sizeof address;
    } else {
      auto& address = reinterpret_cast<sockaddr_in&>(any);
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<std::uint16_t>(port));
      length = sizeof address;
    }
    if (::bind(socket.fd(), reinterpret_cast<sockaddr*>(&any), length) == 0 &&
        ::listen(socket.fd(), SOMAXCONN) == 0)
      return socket;
    if (errno == EADDRINUSE || errno == EACCES) return {};
    if (errno != EADDRNOTAVAIL && errno != EAFNOSUPPORT)
      fail("cannot listen on port {}: {}", port, error_text(errno));
  }
  fail("cannot listen on port {}: {}", port, error_text(errno));
}

int port_of(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    fail("a socket has no address: {}", error_text(errno));
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

Socket connect_to(const std::string& host, int port, Clock::time_point deadline, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code != 0) {
    why = ::gai_strerror(code);
    return {};
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    if (Socket socket = try_to_connect(*a, deadline, why)) return socket;
  }
  return {};
}

Socket accept_from(const Socket& listener, Clock::time_point deadline) {
  while (wait_for(listener, POLLIN, deadline)) {
    if (Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC)); socket) return socket;
    if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
      fail("cannot accept a connection: {}", error_text(errno));
  }
  return {};
}

std::string remote_address_of(const Socket& socket) {
  sockaddr_storage here{};
  sockaddr_storage there{};
  socklen_t here_length = sizeof here;
  socklen_t there_length = sizeof there;
  if (::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&here), &here_length) != 0 ||
      ::getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&there), &there_length) != 0)
    return {};
  // Within a machine both ends have the same address, or one of 127.0.0.0/8 each.
  const std::string number = number_of(there, there_length);
  return number == number_of(here, here_length) || number.starts_with("127.") ? std::string() : number;
}

bool closed_by_peer(const Socket& socket) {
  char byte = 0;
  const ssize_t n = ::recv(socket.fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

bool send_text(const Socket& socket, const std::string& text, Clock::time_point deadline) {
  const Frame frame = {kMagic, static_cast<std::uint32_t>(text.size())};
  std::string message(reinterpret_cast<const char*>(&frame), sizeof frame);
  message += text;
  return send_all(socket, message.data(), message.size(), deadline);
}

std::optional<std::string> receive_text(const Socket& socket, Clock::time_point deadline) {
  Frame frame;
  if (!receive_all(socket, &frame, sizeof frame, deadline) || frame.magic != kMagic ||
      frame.bytes > kLongestText)
    return std::nullopt;
  std::string text(frame.bytes, '\0');
  if (!receive_all(socket, text.data(), text.size(), deadline)) return std::nullopt;
  return text;
}

void prepare_for_messages(const Socket& socket) {
  set_blocking(socket, false);
  set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, 6);
}

}  // namespace xmoe::tcp
