// What went over the link of this process's node, as the network interface counts it: the measure against
// which the program's own count of its traffic is held. Every process of a node reads the same counter.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace xmoe {

// Bytes that the interface named in XMOE_LINK_INTERFACE (tools/cluster.sh sets it) has sent since it exists,
// headers of Ethernet, IP and TCP included. Nothing where the variable is not set; an Error when it names an
// interface that this machine (or network namespace) does not have.
std::optional<std::int64_t> link_bytes_sent();

// The same from the text of /proc/net/dev.
std::optional<std::int64_t> link_bytes_sent(std::string_view devices, std::string_view interface);

}  // namespace xmoe
