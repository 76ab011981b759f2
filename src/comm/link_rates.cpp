#include "comm/link_rates.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "base/timer.h"

namespace xmoe {

namespace {

// What each rank sends at first: long enough for the rate to count rather than the latency, short enough for
// links of 10 MB/s.
constexpr std::int64_t kFirstBytes = std::int64_t{256} << 10;
// What it sends if that was quick.
constexpr std::int64_t kMoreBytes = std::int64_t{4} << 20;
constexpr double kQuickSeconds = 5e-3;
constexpr int kRepeats = 3;

// Seconds of one exchange of rows of one byte, on the slowest rank.
double time_exchange(Communicator& group, const std::vector<std::int64_t>& send_rows,
                     const std::vector<std::int64_t>& recv_rows, std::vector<std::byte>& buffer) {
  const auto total = [](const auto& rows) {
    std::int64_t sum = 0;
    for (const auto n : rows) sum += n;
    return sum;
  };
  const std::int64_t sent = total(send_rows);
  const std::int64_t received = total(recv_rows);
  buffer.resize(static_cast<std::size_t>(sent + received));
  group.barrier();
  const Timer timer;
  group.all_to_all_v(Tensor(buffer.data(), DType::u8, {sent}), send_rows,
                     Tensor(buffer.data() + sent, DType::u8, {received}), recv_rows);
  return group.all_reduce(timer.seconds(), ReduceOp::max);
}

// The rate of an exchange of each rank with those for which linked(rank, peer) is true.
template <typename Linked>
double measure(Communicator& group, Linked linked) {
  const int size = group.size();
  std::vector<std::int64_t> peers(static_cast<std::size_t>(size));  // of each rank
  for (int a = 0; a < size; ++a)
    for (int b = 0; b < size; ++b) peers[static_cast<std::size_t>(a)] += linked(a, b) ? 1 : 0;
  std::int64_t senders = 0;
  for (const auto n : peers) senders += n > 0 ? 1 : 0;
  if (senders == 0) return 0;

  const auto rows = [&](int from, int to, std::int64_t bytes) {
    return linked(from, to) ? bytes / peers[static_cast<std::size_t>(from)] : 0;
  };
  std::vector<std::byte> buffer;
  const auto exchange = [&](std::int64_t bytes) {
    std::vector<std::int64_t> send_rows;
    std::vector<std::int64_t> recv_rows;
    for (int peer = 0; peer < size; ++peer) {
      send_rows.push_back(rows(group.rank(), peer, bytes));
      recv_rows.push_back(rows(peer, group.rank(), bytes));
    }
    return time_exchange(group, send_rows, recv_rows, buffer);
  };
  exchange(kFirstBytes);  // connections are made by the first messages
  std::int64_t bytes = kFirstBytes;
  if (exchange(bytes) < kQuickSeconds) bytes = kMoreBytes;
  std::array<double, kRepeats> seconds{};
  for (double& s : seconds) s = exchange(bytes);
  std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
  return static_cast<double>(bytes) / seconds[kRepeats / 2];
}

}  // namespace

LinkRates measure_links(Communicator& group) {
  const std::vector<int> nodes(group.nodes().begin(), group.nodes().end());
  const auto same_node = [&](int a, int b) {
    return nodes.empty() || nodes[static_cast<std::size_t>(a)] == nodes[static_cast<std::size_t>(b)];
  };
  return {.within_node = measure(group, [&](int a, int b) { return a != b && same_node(a, b); }),
          .between_nodes = measure(group, [&](int a, int b) { return !same_node(a, b); })};
}

}  // namespace xmoe
