// Collectives over TCP, on host memory: every rank sends each other one its part. Reductions go as in the MPI
// backend, an exchange of parts, a sum in rank order and a gather of the results, and give the same bits.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "comm/contract.h"
#include "comm/pending.h"
#include "comm/reduction.h"
#include "comm/tcp_backend.h"
#include "comm/tcp_transfer.h"
#include "comm/traffic.h"

namespace xmoe::tcp {

namespace {

struct Bytes {
  std::byte* data = nullptr;
  std::int64_t size = 0;
};

std::byte* bytes_of(const Tensor& tensor) { return static_cast<std::byte*>(tensor.raw()); }

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

class TcpCommunicator final : public Communicator {
 public:
  // `members`: the ranks of the group among those of the links, at least two. `id` tells it from other
  // groups.
  TcpCommunicator(std::shared_ptr<Links> links, std::vector<int> members, std::uint64_t id, std::string name)
      : links_(std::move(links)), members_(std::move(members)), id_(id), name_(std::move(name)) {
    const auto self = std::find(members_.begin(), members_.end(), links_->rank());
    rank_ = static_cast<int>(self - members_.begin());
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  const std::string& name() const override { return name_; }
  const Traffic& traffic() const override { return traffic_; }
  const Arena& scratch() const override { return scratch_; }
  std::vector<const Arena*> arenas() const override {
    std::vector<const Arena*> all = {&scratch_};
    buffers_.list(all);
    return all;
  }

  void all_reduce(const Tensor& values, ReduceOp op) override;
  void all_gather(const Tensor& input, const Tensor& output) override {
    begin_all_gather(input, output)->wait();
  }
  void reduce_scatter(const Tensor& input, const Tensor& output) override;
  void broadcast(const Tensor& values, int root) override;
  void all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                    std::span<const std::int64_t> recv_rows) override {
    const ExchangePart part = {send, send_rows, recv, recv_rows};
    begin_exchange("all_to_all_v", {&part, 1})->wait();
  }
  std::unique_ptr<Transfer> start_exchange(std::span<const ExchangePart> parts) override {
    return started(begin_exchange("exchange", parts));
  }
  std::unique_ptr<Transfer> start_reduce_scatter(const Tensor& input, const Tensor& output) override;
  std::unique_ptr<Transfer> start_all_gather(const Tensor& input, const Tensor& output) override {
    return started(begin_all_gather(input, output));
  }
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) override;
  std::unique_ptr<Communicator> split_by_memory(const std::string& name) override;

 private:
  std::unique_ptr<TcpTransfer> make_transfer(const char* operation) {
    return std::make_unique<TcpTransfer>(operation, name_, *links_, buffers_);
  }
  static std::unique_ptr<Transfer> started(std::unique_ptr<TcpTransfer> transfer) {
    transfer->progress();
    return transfer;
  }
  int world_rank(int rank) const { return members_[static_cast<std::size_t>(rank)]; }
  void send(TcpTransfer& transfer, int to, const Bytes& bytes) {
    if (bytes.size > 0)
      transfer.add(links_->send(world_rank(to), id_, bytes.data, static_cast<std::size_t>(bytes.size)));
  }
  void receive(TcpTransfer& transfer, int from, const Bytes& bytes) {
    if (bytes.size > 0)
      transfer.add(links_->receive(world_rank(from), id_, bytes.data, static_cast<std::size_t>(bytes.size)));
  }
  // Sends outgoing(peer) to every other rank and receives incoming(peer) from it.
  template <typename Outgoing, typename Incoming>
  void trade(TcpTransfer& transfer, Outgoing outgoing, Incoming incoming) {
    for_each_peer(*this, [&](int peer) {
      receive(transfer, peer, incoming(peer));
      send(transfer, peer, outgoing(peer));
    });
  }
  std::unique_ptr<TcpTransfer> begin_all_gather(const Tensor& input, const Tensor& output);
  std::unique_ptr<TcpTransfer> begin_exchange(const char* operation, std::span<const ExchangePart> parts);
  void reduce_by_gather(const Tensor& values, ReduceOp op);
  void reduce_chunk(std::byte* chunk, std::int64_t n, DType dtype, ReduceOp op);

  std::shared_ptr<Links> links_;
  std::vector<int> members_;
  std::uint64_t id_;
  std::string name_;
  int rank_ = 0;
  std::uint64_t splits_ = 0;  // groups made from this one
  Traffic traffic_;
  Arena scratch_{Device{}, MemoryTag::communication};
  TransferBuffers buffers_;
};

void TcpCommunicator::all_reduce(const Tensor& values, ReduceOp op) {
  contract::check_reducible(values);
  ++traffic_.calls;
  const auto element = static_cast<std::int64_t>(size_of(values.dtype()));
  const std::int64_t n = values.numel();
  if (n == 0) return;
  const ArenaScope scope(scratch_);
  if (reduces_by_gather(n * element, size())) {
    reduce_by_gather(values, op);
    return;
  }
  const std::int64_t chunk = kReductionChunkBytes / element;
  for (std::int64_t begin = 0; begin < n; begin += chunk)
    reduce_chunk(bytes_of(values) + begin * element, std::min(chunk, n - begin), values.dtype(), op);
}

void TcpCommunicator::reduce_by_gather(const Tensor& values, ReduceOp op) {
  const auto bytes = static_cast<std::int64_t>(values.bytes());
  auto* gathered = static_cast<std::byte*>(scratch_.allocate(values.bytes() * members_.size()));
  const auto transfer = make_transfer("all_reduce");
  trade(
      *transfer,
      [&](int /*peer*/) {
        return Bytes{bytes_of(values), bytes};
      },
      [&](int peer) {
        return Bytes{gathered + peer * bytes, bytes};
      });
  copy_bytes(gathered + rank_ * bytes, bytes_of(values), bytes);
  transfer->wait();
  count_sent(traffic_, *this, [&](int /*peer*/) { return bytes; });
  reduce_parts(op, values.dtype(), gathered, size(), values.numel(), values.raw());
}

void TcpCommunicator::reduce_chunk(std::byte* chunk, std::int64_t n, DType dtype, ReduceOp op) {
  const ArenaScope scope(scratch_);
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  const auto begin = [&](int r) { return part_begin(n, size(), r); };
  const std::int64_t mine = begin(rank_ + 1) - begin(rank_);
  auto* parts = static_cast<std::byte*>(scratch_.allocate(static_cast<std::size_t>(mine * element * size())));
  const auto part_of = [&](int r) {
    return Bytes{chunk + begin(r) * element, (begin(r + 1) - begin(r)) * element};
  };
  const Bytes own = part_of(rank_);
  const auto scattered = make_transfer("all_reduce");
  trade(*scattered, part_of, [&](int peer) { return Bytes{parts + peer * own.size, own.size}; });
  copy_bytes(parts + rank_ * own.size, own.data, own.size);
  scattered->wait();
  reduce_parts(op, dtype, parts, size(), mine, own.data);
  const auto gathered = make_transfer("all_reduce");
  trade(
      *gathered, [&](int /*peer*/) { return own; }, part_of);
  gathered->wait();
  count_sent(traffic_, *this, [&](int peer) { return part_of(peer).size + own.size; });
}

std::unique_ptr<TcpTransfer> TcpCommunicator::begin_all_gather(const Tensor& input, const Tensor& output) {
  contract::check_all_gather(input, output, size());
  ++traffic_.calls;
  const auto bytes = static_cast<std::int64_t>(input.bytes());
  count_sent(traffic_, *this, [&](int /*peer*/) { return bytes; });
  auto transfer = make_transfer("all_gather");
  trade(
      *transfer,
      [&](int /*peer*/) {
        return Bytes{bytes_of(input), bytes};
      },
      [&](int peer) {
        return Bytes{bytes_of(output) + peer * bytes, bytes};
      });
  copy_bytes(bytes_of(output) + rank_ * bytes, bytes_of(input), bytes);
  return transfer;
}

void TcpCommunicator::reduce_scatter(const Tensor& input, const Tensor& output) {
  contract::check_reduce_scatter(input, output, size());
  ++traffic_.calls;
  count_sent(traffic_, *this, [&](int /*peer*/) { return static_cast<std::int64_t>(output.bytes()); });
  const auto element = static_cast<std::int64_t>(size_of(output.dtype()));
  const std::int64_t n = output.numel();
  const std::int64_t block = std::min(n, std::max<std::int64_t>(1, kReductionChunkBytes / element / size()));
  const ArenaScope scope(scratch_);
  auto* parts =
      static_cast<std::byte*>(scratch_.allocate(static_cast<std::size_t>(block * element * size())));
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t m = std::min(block, n - begin);
    const std::int64_t bytes = m * element;
    const auto part_of = [&](int r) { return Bytes{bytes_of(input) + (r * n + begin) * element, bytes}; };
    const auto transfer = make_transfer("reduce_scatter");
    trade(*transfer, part_of, [&](int peer) { return Bytes{parts + peer * bytes, bytes}; });
    copy_bytes(parts + rank_ * bytes, part_of(rank_).data, bytes);
    transfer->wait();
    reduce_parts(ReduceOp::sum, output.dtype(), parts, size(), m, bytes_of(output) + begin * element);
  }
}

std::unique_ptr<Transfer> TcpCommunicator::start_reduce_scatter(const Tensor& input, const Tensor& output) {
  contract::check_reduce_scatter(input, output, size());
  ++traffic_.calls;
  const auto bytes = static_cast<std::int64_t>(output.bytes());
  count_sent(traffic_, *this, [&](int /*peer*/) { return bytes; });
  auto transfer = make_transfer("reduce_scatter");
  if (bytes == 0) return transfer;
  auto* parts = static_cast<std::byte*>(transfer->allocate(input.bytes()));
  trade(
      *transfer,
      [&](int peer) {
        return Bytes{bytes_of(input) + peer * bytes, bytes};
      },
      [&](int peer) {
        return Bytes{parts + peer * bytes, bytes};
      });
  copy_bytes(parts + rank_ * bytes, bytes_of(input) + rank_ * bytes, bytes);
  transfer->then_sum(output.dtype(), parts, size(), output.numel(), output.raw());
  return started(std::move(transfer));
}

void TcpCommunicator::broadcast(const Tensor& values, int root) {
  contract::check_broadcast(values, root, size());
  ++traffic_.calls;
  const Bytes bytes = {bytes_of(values), static_cast<std::int64_t>(values.bytes())};
  const auto transfer = make_transfer("broadcast");
  if (rank_ == root) {
    count_sent(traffic_, *this, [&](int /*peer*/) { return bytes.size; });
    for_each_peer(*this, [&](int peer) { send(*transfer, peer, bytes); });
  } else {
    receive(*transfer, root, bytes);
  }
  transfer->wait();
}

std::unique_ptr<TcpTransfer> TcpCommunicator::begin_exchange(const char* operation,
                                                             std::span<const ExchangePart> parts) {
  for (const ExchangePart& p : parts)
    contract::check_all_to_all_v(p.send, p.send_rows, p.recv, p.recv_rows, rank_, size());
  ++traffic_.calls;
  auto transfer = make_transfer(operation);
  for (const ExchangePart& p : parts) {
    const std::int64_t row = contract::row_bytes(p.send);
    Bytes out = {bytes_of(p.send), 0};
    Bytes in = {bytes_of(p.recv), 0};
    for (int r = 0; r < size(); ++r) {
      out.size = p.send_rows[static_cast<std::size_t>(r)] * row;
      in.size = p.recv_rows[static_cast<std::size_t>(r)] * row;
      if (r == rank_) {
        copy_bytes(in.data, out.data, out.size);
      } else {
        receive(*transfer, r, in);
        send(*transfer, r, out);
      }
      out.data += out.size;
      in.data += in.size;
    }
    count_sent(traffic_, *this, [&](int peer) { return p.send_rows[static_cast<std::size_t>(peer)] * row; });
  }
  return transfer;
}

// In rounds: after the one of distance d every rank knows of the 2 d ranks up to it that they have come.
void TcpCommunicator::barrier() {
  const PendingScope pending("barrier", name_);
  ++traffic_.calls;
  for (int distance = 1; distance < size(); distance *= 2) {
    const Ticket out = links_->send(world_rank((rank_ + distance) % size()), id_, nullptr, 0);
    const Ticket in = links_->receive(world_rank((rank_ - distance + size()) % size()), id_, nullptr, 0);
    const Ticket both[] = {in, out};
    links_->wait(both);
  }
}

std::unique_ptr<Communicator> TcpCommunicator::split(int color, int key, const std::string& name) {
  std::int64_t own[] = {color, key};
  std::vector<std::int64_t> all(2 * members_.size());
  const PendingScope pending("split", name_);
  all_gather(Tensor(own, DType::i64, {2}), Tensor(all.data(), DType::i64, {2 * size()}));
  std::vector<std::pair<std::int64_t, int>> chosen;  // key and rank here
  for (int r = 0; r < size(); ++r) {
    const auto i = 2 * static_cast<std::size_t>(r);
    if (all[i] == color) chosen.emplace_back(all[i + 1], r);
  }
  std::sort(chosen.begin(), chosen.end());
  // Known to all of the group alike, since they have made the same groups before.
  const std::uint64_t made_from[] = {id_, ++splits_, static_cast<std::uint64_t>(color)};
  if (chosen.size() == 1) return make_self_communicator(name);
  std::vector<int> members;
  std::vector<int> group_nodes;
  for (const auto& [its_key, r] : chosen) {
    members.push_back(world_rank(r));
    if (!nodes().empty()) group_nodes.push_back(nodes()[static_cast<std::size_t>(r)]);
  }
  auto group = std::make_unique<TcpCommunicator>(links_, std::move(members),
                                                 hash64(made_from, sizeof made_from), name);
  group->set_nodes(std::move(group_nodes));
  return group;
}

std::unique_ptr<Communicator> TcpCommunicator::split_by_memory(const std::string& name) {
  int first = 0;
  while (links_->memory_of(world_rank(first)) != links_->memory_of(links_->rank())) ++first;
  return split(first, rank_, name);
}

}  // namespace

std::unique_ptr<Communicator> make_world(std::shared_ptr<Links> links) {
  std::vector<int> all(static_cast<std::size_t>(links->size()));
  for (std::size_t r = 0; r < all.size(); ++r) all[r] = static_cast<int>(r);
  if (all.size() == 1) return make_self_communicator();
  return std::make_unique<TcpCommunicator>(std::move(links), std::move(all), 0, "world");
}

}  // namespace xmoe::tcp
