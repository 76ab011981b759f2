// Collectives under way: several at once, among blocking ones, ended in any order; and their account.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "distributed/support.h"

namespace xmoe {
namespace {

using distributed::Mirror;
using distributed::tested;

std::uint8_t byte_of(int from, int to, int tag, std::size_t i) {
  return static_cast<std::uint8_t>(static_cast<std::size_t>(from * 31 + to * 7 + tag * 57 + 1) + i * 13 +
                                   i / 251);
}

// A buffer of an uneven exchange in `group`, filled so that each byte says where it comes from.
struct Buffer {
  std::vector<std::int64_t> send_rows, recv_rows;
  std::vector<std::uint8_t> send, recv, expected;
  std::optional<Mirror> sent_there, received_there;
  ExchangePart part;

  template <typename Rows>
  Buffer(const Communicator& group, int tag, DType dtype, std::int64_t width, Rows rows) {
    const int me = group.rank();
    const auto row_bytes = static_cast<std::size_t>(width) * size_of(dtype);
    std::int64_t sent = 0;
    std::int64_t received = 0;
    for (int peer = 0; peer < group.size(); ++peer) {
      send_rows.push_back(rows(me, peer));
      recv_rows.push_back(rows(peer, me));
      sent += send_rows.back();
      received += recv_rows.back();
      for (std::size_t i = 0; i < static_cast<std::size_t>(send_rows.back()) * row_bytes; ++i)
        send.push_back(byte_of(me, peer, tag, i));
      for (std::size_t i = 0; i < static_cast<std::size_t>(recv_rows.back()) * row_bytes; ++i)
        expected.push_back(byte_of(peer, me, tag, i));
    }
    recv.resize(expected.size());
    sent_there.emplace(Tensor(send.data(), dtype, {sent, width}));
    received_there.emplace(Tensor(recv.data(), dtype, {received, width}));
    part = {sent_there->tensor(), send_rows, received_there->tensor(), recv_rows};
  }
  // Whether all has come.
  bool complete() const {
    received_there->fetch();
    return recv == expected;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

const auto uneven = [](int from, int to) { return std::int64_t{(from * 7 + to * 3) % 5}; };
const auto many = [](int from, int to) { return std::int64_t{200 + from * 10 + to}; };

Tensor view(std::vector<float>& values) {
  return {values.data(), DType::f32, {static_cast<std::int64_t>(values.size())}};
}

TEST(Transfers, SeveralBuffersGoInOneRound) {
  Buffer rows(tested(), 1, DType::bf16, 100, many);
  Buffer weights(tested(), 2, DType::f32, 1, many);
  Buffer none(tested(), 3, DType::i64, 2, [](int, int) { return std::int64_t{0}; });
  Buffer few(tested(), 4, DType::u8, 3, uneven);
  const Traffic before = tested().traffic();
  const auto transfer = tested().start_exchange(std::vector{rows.part, weights.part, none.part, few.part});
  EXPECT_EQ(tested().traffic().calls, before.calls + 1);
  transfer->wait();
  transfer->wait();
  for (const Buffer* b : {&rows, &weights, &none, &few}) EXPECT_TRUE(b->complete());
}

TEST(Transfers, OverlapEachOtherOnSeveralGroupsAndOtherCollectives) {
  const int me = tested().rank();
  const int ranks = tested().size();
  const auto half = tested().split(me % 2, me, "half");
  Buffer a(tested(), 1, DType::f32, 300, many);
  Buffer b(*half, 2, DType::f32, 300, many);
  Buffer c(tested(), 3, DType::f32, 300, uneven);
  Buffer d(tested(), 4, DType::bf16, 5, uneven);
  auto first = tested().start_exchange({&a.part, 1});
  auto second = half->start_exchange({&b.part, 1});
  EXPECT_EQ(tested().all_reduce(std::int64_t{me}, ReduceOp::sum), std::int64_t{ranks} * (ranks - 1) / 2);
  auto third = tested().start_exchange({&c.part, 1});
  tested().all_to_all_v(d.part.send, d.send_rows, d.part.recv, d.recv_rows);
  std::vector<float> parts(static_cast<std::size_t>(1000 * ranks), static_cast<float>(me));
  std::vector<float> sum(1000);
  const Mirror parts_there(view(parts));
  const Mirror sum_there(view(sum));
  auto reduction = tested().start_reduce_scatter(parts_there.tensor(), sum_there.tensor());
  tested().barrier();
  // Ranks need not end them in one order.
  if (me % 2 == 0) first->wait();
  reduction->wait();
  third->wait();
  second->wait();
  first->wait();
  for (const Buffer* buffer : {&a, &b, &c, &d}) EXPECT_TRUE(buffer->complete());
  sum_there.fetch();
  EXPECT_EQ(sum, std::vector<float>(1000, static_cast<float>(ranks * (ranks - 1) / 2)));
}

TEST(Transfers, ReductionsHaveTheBitsOfTheBlockingOnes) {
  const int me = tested().rank();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const std::int64_t n : {0, 1, 7, 100003}) {
      const auto bytes = static_cast<std::size_t>(n) * size_of(dtype);
      const auto ranks = static_cast<std::size_t>(tested().size());
      // Of magnitudes between 2^-16 and 1, so that another order of the sum has other bits.
      std::vector<std::uint8_t> input(bytes * ranks);
      for (std::size_t i = 0; i < input.size() / size_of(dtype); ++i) {
        const std::size_t mixed = (i + static_cast<std::size_t>(me) * 977) * 2654435761U;
        const float value =
            static_cast<float>(mixed % 1000 + 1) / static_cast<float>(1 << (mixed / 1000 % 17));
        if (dtype == DType::f32) std::memcpy(input.data() + i * 4, &value, 4);
        const bf16 rounded(value);
        if (dtype == DType::bf16) std::memcpy(input.data() + i * 2, &rounded, 2);
        const f16 half(value);
        if (dtype == DType::f16) std::memcpy(input.data() + i * 2, &half, 2);
      }
      const Mirror input_there(Tensor(input.data(), dtype, {n * tested().size()}));
      const Tensor& whole = input_there.tensor();
      std::vector<std::uint8_t> expected(bytes);
      std::vector<std::uint8_t> sum(bytes);
      const Mirror expected_there(Tensor(expected.data(), dtype, {n}));
      const Mirror sum_there(Tensor(sum.data(), dtype, {n}));
      tested().reduce_scatter(whole, expected_there.tensor());
      tested().start_reduce_scatter(whole, sum_there.tensor())->wait();
      expected_there.fetch();
      sum_there.fetch();
      EXPECT_EQ(sum, expected);
      tested().start_reduce_scatter(whole, whole.slice(me * n, (me + 1) * n))->wait();  // in place
      input_there.fetch();
      EXPECT_TRUE(
          std::equal(expected.begin(), expected.end(), input.begin() + me * static_cast<long>(bytes)));
      std::vector<std::uint8_t> all(bytes * ranks);
      std::vector<std::uint8_t> gathered(bytes * ranks);
      const Mirror all_there(Tensor(all.data(), dtype, {n * tested().size()}));
      const Mirror gathered_there(Tensor(gathered.data(), dtype, {n * tested().size()}));
      tested().all_gather(sum_there.tensor(), all_there.tensor());
      tested().start_all_gather(sum_there.tensor(), gathered_there.tensor())->wait();
      all_there.fetch();
      gathered_there.fetch();
      EXPECT_EQ(gathered, all);
      tested().start_all_gather(whole.slice(me * n, (me + 1) * n), whole)->wait();  // in place
      input_there.fetch();
      EXPECT_EQ(input, all);
    }
  }
}

// On a device nobody waits but its stream: a transfer sends what was written just before it began, what is
// written behind wait() does not reach it, and what reads behind wait() finds what came.
TEST(Transfers, KeepTheOrderOfTheStream) {
  const int me = tested().rank();
  const int ranks = tested().size();
  const Device& device = distributed::tested_device();
  const std::size_t bytes = std::size_t{device.is_cpu() ? 1U : 16U} << 20;
  std::vector<std::uint8_t> out(bytes * static_cast<std::size_t>(ranks));
  std::vector<std::uint8_t> in(out.size());
  std::vector<std::uint8_t> host(out.size());
  const Shape shape = {static_cast<std::int64_t>(out.size())};
  const Mirror send(Tensor(out.data(), DType::u8, shape));
  const Mirror recv(Tensor(in.data(), DType::u8, shape));
  const Mirror seen(Tensor(host.data(), DType::u8, shape));
  const std::vector<std::int64_t> rows(static_cast<std::size_t>(ranks), static_cast<std::int64_t>(bytes));
  const ExchangePart part = {send.tensor(), rows, recv.tensor(), rows};
  for (int round = 0; round < 4; ++round) {
    // The stream is busy for a while before the right values come.
    for (int i = 0; i < 20; ++i) device_fill(device, send.tensor().raw(), 255, send.tensor().bytes());
    device_fill(device, send.tensor().raw(), 16 * round + me, send.tensor().bytes());
    const auto transfer = tested().start_exchange({&part, 1});
    transfer->wait();
    device_fill(device, send.tensor().raw(), 254, send.tensor().bytes());
    device_copy(device, recv.tensor().raw(), device, seen.tensor().raw(), recv.tensor().bytes());
    seen.fetch();
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < host.size(); i += 1021) {
      const auto from = static_cast<int>(i / bytes);
      wrong += host[i] == 16 * round + from ? 0 : 1;
    }
    EXPECT_EQ(wrong, 0) << "in round " << round;
  }
}

TEST(Transfers, DestructionWaits) {
  Buffer rows(tested(), 1, DType::f32, 1000, many);
  tested().start_exchange({&rows.part, 1}).reset();
  EXPECT_TRUE(rows.complete());
}

// Nobody enters MPI until all rows are there: if they need the caller, this test hangs and is ended.
TEST(Transfers, AdvanceWithoutTheCaller) {
  if (!distributed::tested_device().is_cpu()) GTEST_SKIP() << "needs memory that the host reads";
  if (tested().size() > 1 && !asynchronous_progress())
    GTEST_SKIP() << "these messages have no thread of their own";
  // To the next rank, in more pieces than MPI sends at once.
  Buffer rows(tested(), 1, DType::f32, 5000,
              [](int from, int to) { return std::int64_t{to == (from + 1) % tested().size() ? 400 : 0}; });
  const auto transfer = tested().start_exchange({&rows.part, 1});
  for (std::size_t i = 0; i < rows.recv.size(); i += 61) {
    const std::atomic_ref<std::uint8_t> arriving(rows.recv[i]);
    while (arriving.load() != rows.expected[i]) std::this_thread::yield();
  }
  transfer->wait();
  EXPECT_TRUE(rows.complete());
}

TEST(Transfers, SteadyStateAllocatesNothing) {
  const auto group = tested().split(0, tested().rank(), "steady");
  const auto ranks = static_cast<std::size_t>(tested().size());
  std::vector<float> large(50000 * ranks);
  std::vector<float> small(1000 * ranks);
  std::vector<float> part(50000);
  std::vector<float> other(1000);
  const auto allocations = [&] {
    std::int64_t n = 0;
    for (const Arena* arena : group->arenas()) n += arena->device_allocations();
    return n;
  };
  const Mirror large_there(view(large));
  const Mirror small_there(view(small));
  const Mirror part_there(view(part));
  const Mirror other_there(view(other));
  const auto step = [&] {
    auto first = group->start_reduce_scatter(large_there.tensor(), part_there.tensor());
    auto second = group->start_reduce_scatter(small_there.tensor(), other_there.tensor());
    first->wait();
    auto third = group->start_reduce_scatter(large_there.tensor(), part_there.tensor());
    third->wait();
    second->wait();
  };
  for (int i = 0; i < 3; ++i) step();
  const std::int64_t before = allocations();
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(allocations(), before);
  for (const Arena* arena : group->arenas()) {
    EXPECT_EQ(arena->in_use(), 0U);
    EXPECT_EQ(arena->tag(), MemoryTag::communication);
  }
  // Of blocking ones, and of two transfers at once.
  if (distributed::tested_device().is_cpu()) {
    EXPECT_EQ(group->arenas().size(), tested().size() > 1 ? 3U : 1U);
  }
}

TEST(Transfers, RefuseWhatTheBlockingOnesRefuse) {
  Buffer rows(tested(), 1, DType::f32, 2, [](int, int) { return std::int64_t{3}; });
  std::vector<std::int64_t> wrong = rows.send_rows;
  ++wrong.back();
  ExchangePart part = rows.part;
  part.send_rows = wrong;
  EXPECT_THROW(tested().start_exchange({&part, 1}), InvariantError);
  std::vector<float> a(5);
  const Mirror there(view(a));
  EXPECT_THROW(tested().start_reduce_scatter(there.tensor().slice(0, 3), there.tensor()), InvariantError);
  EXPECT_THROW(tested().start_all_gather(there.tensor().slice(0, 3), there.tensor().slice(0, 1)),
               InvariantError);
}

// Two ranks a node: what crosses is what goes to ranks whose half of the number differs.
TEST(Transfers, BytesBetweenNodesAreThoseToRanksOfOtherNodes) {
  const int ranks = tested().size();
  const auto group = tested().split(0, tested().rank(), "nodes");
  std::vector<int> nodes;
  for (int r = 0; r < ranks; ++r) nodes.push_back(r / 2);
  group->set_nodes(nodes);
  const int me = group->rank();
  const std::int64_t remote = ranks - std::min(2, ranks - me / 2 * 2);
  const auto crossed = [&](auto&& collective) {
    const std::int64_t before = group->traffic().bytes_between_nodes;
    collective();
    return group->traffic().bytes_between_nodes - before;
  };
  const auto n = static_cast<std::size_t>(ranks);
  std::vector<float> large(100000 * n);
  std::vector<float> small(10);
  std::vector<float> gathered(10 * n);
  const Mirror large_there(view(large));
  const Mirror small_there(view(small));
  const Mirror gathered_there(view(gathered));
  EXPECT_EQ(crossed([&] { group->all_reduce(large_there.tensor(), ReduceOp::sum); }),
            2 * 100000 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->all_reduce(small_there.tensor(), ReduceOp::sum); }), 10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->all_gather(small_there.tensor(), gathered_there.tensor()); }),
            10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->start_all_gather(small_there.tensor(), gathered_there.tensor()); }),
            10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->reduce_scatter(gathered_there.tensor(), small_there.tensor()); }),
            10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->start_reduce_scatter(gathered_there.tensor(), small_there.tensor()); }),
            10 * 4 * remote);
  for (int root = 0; root < ranks; ++root)
    EXPECT_EQ(crossed([&] { group->broadcast(small_there.tensor(), root); }),
              me == root ? 10 * 4 * remote : 0);
  EXPECT_EQ(crossed([&] { group->barrier(); }), 0);
  Buffer rows(*group, 1, DType::bf16, 7, uneven);
  Buffer more(*group, 2, DType::f32, 3, many);
  std::int64_t rows_crossing = 0;
  std::int64_t more_crossing = 0;
  for (int peer = 0; peer < ranks; ++peer) {
    if (peer / 2 == me / 2) continue;
    rows_crossing += uneven(me, peer) * 7 * 2;
    more_crossing += many(me, peer) * 3 * 4;
  }
  EXPECT_EQ(
      crossed([&] { group->all_to_all_v(rows.part.send, rows.send_rows, rows.part.recv, rows.recv_rows); }),
      rows_crossing);
  EXPECT_EQ(crossed([&] {
              group->start_exchange(std::vector{rows.part, more.part});
            }),
            rows_crossing + more_crossing);
}

}  // namespace
}  // namespace xmoe
