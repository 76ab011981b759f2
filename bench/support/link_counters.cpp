#include "bench/support/link_counters.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "base/error.h"

namespace xmoe {

std::optional<std::int64_t> link_bytes_sent(std::string_view devices, std::string_view interface) {
  std::istringstream lines{std::string(devices)};
  for (std::string line; std::getline(lines, line);) {
    const auto begin = line.find_first_not_of(' ');
    const auto colon = line.find(':');
    if (begin == std::string::npos || colon == std::string::npos) continue;
    if (std::string_view(line).substr(begin, colon - begin) != interface) continue;
    // Eight columns of what was received (bytes, packets, ...), then the bytes sent.
    std::istringstream columns(line.substr(colon + 1));
    std::int64_t value = 0;
    for (int column = 0; column < 9; ++column)
      if (!(columns >> value)) fail("/proc/net/dev: the line of {} has {} columns", interface, column);
    return value;
  }
  return std::nullopt;
}

std::optional<std::int64_t> link_bytes_sent() {
  const char* interface = std::getenv("XMOE_LINK_INTERFACE");
  if (interface == nullptr || *interface == '\0') return std::nullopt;
  // Read whole: files of /proc have no size. It shows the interfaces of this process's network namespace.
  std::ifstream file("/proc/net/dev");
  const std::string devices{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = link_bytes_sent(devices, interface);
  if (!bytes)
    fail("XMOE_LINK_INTERFACE is {}, which is not in /proc/net/dev: name the interface of the node's link",
         interface);
  return bytes;
}

}  // namespace xmoe
