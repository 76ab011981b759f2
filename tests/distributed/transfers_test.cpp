// Collectives under way: several at once, among blocking ones, ended in any order; and their account.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "distributed/support.h"

namespace xmoe {
namespace {

using distributed::world;

std::uint8_t byte_of(int from, int to, int tag, std::size_t i) {
  return static_cast<std::uint8_t>(static_cast<std::size_t>(from * 31 + to * 7 + tag * 57 + 1) + i * 13 +
                                   i / 251);
}

// A buffer of an uneven exchange in `group`, filled so that each byte says where it comes from.
struct Buffer {
  std::vector<std::int64_t> send_rows, recv_rows;
  std::vector<std::uint8_t> send, recv, expected;
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
    part = {Tensor(send.data(), dtype, {sent, width}), send_rows,
            Tensor(recv.data(), dtype, {received, width}), recv_rows};
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
  Buffer rows(world(), 1, DType::bf16, 100, many);
  Buffer weights(world(), 2, DType::f32, 1, many);
  Buffer none(world(), 3, DType::i64, 2, [](int, int) { return std::int64_t{0}; });
  Buffer few(world(), 4, DType::u8, 3, uneven);
  const Traffic before = world().traffic();
  const auto transfer = world().start_exchange(std::vector{rows.part, weights.part, none.part, few.part});
  EXPECT_EQ(world().traffic().calls, before.calls + 1);
  transfer->wait();
  transfer->wait();
  for (const Buffer* b : {&rows, &weights, &none, &few}) EXPECT_TRUE(b->recv == b->expected);
}

TEST(Transfers, OverlapEachOtherOnSeveralGroupsAndOtherCollectives) {
  const int me = world().rank();
  const int ranks = world().size();
  const auto half = world().split(me % 2, me, "half");
  Buffer a(world(), 1, DType::f32, 300, many);
  Buffer b(*half, 2, DType::f32, 300, many);
  Buffer c(world(), 3, DType::f32, 300, uneven);
  Buffer d(world(), 4, DType::bf16, 5, uneven);
  auto first = world().start_exchange({&a.part, 1});
  auto second = half->start_exchange({&b.part, 1});
  EXPECT_EQ(world().all_reduce(std::int64_t{me}, ReduceOp::sum), std::int64_t{ranks} * (ranks - 1) / 2);
  auto third = world().start_exchange({&c.part, 1});
  world().all_to_all_v(d.part.send, d.send_rows, d.part.recv, d.recv_rows);
  std::vector<float> parts(static_cast<std::size_t>(1000 * ranks), static_cast<float>(me));
  std::vector<float> sum(1000);
  auto reduction = world().start_reduce_scatter(view(parts), view(sum));
  world().barrier();
  // Ranks need not end them in one order.
  if (me % 2 == 0) first->wait();
  reduction->wait();
  third->wait();
  second->wait();
  first->wait();
  for (const Buffer* buffer : {&a, &b, &c, &d}) EXPECT_TRUE(buffer->recv == buffer->expected);
  EXPECT_EQ(sum, std::vector<float>(1000, static_cast<float>(ranks * (ranks - 1) / 2)));
}

TEST(Transfers, ReductionsHaveTheBitsOfTheBlockingOnes) {
  const int me = world().rank();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t n : {0, 1, 7, 100003}) {
      const auto bytes = static_cast<std::size_t>(n) * size_of(dtype);
      const auto ranks = static_cast<std::size_t>(world().size());
      // Of magnitudes between 2^-16 and 1, so that another order of the sum has other bits.
      std::vector<std::uint8_t> input(bytes * ranks);
      for (std::size_t i = 0; i < input.size() / size_of(dtype); ++i) {
        const std::size_t mixed = (i + static_cast<std::size_t>(me) * 977) * 2654435761U;
        const float value =
            static_cast<float>(mixed % 1000 + 1) / static_cast<float>(1 << (mixed / 1000 % 17));
        if (dtype == DType::f32) std::memcpy(input.data() + i * 4, &value, 4);
        const bf16 rounded(value);
        if (dtype == DType::bf16) std::memcpy(input.data() + i * 2, &rounded, 2);
      }
      const Tensor whole(input.data(), dtype, {n * world().size()});
      std::vector<std::uint8_t> expected(bytes);
      std::vector<std::uint8_t> sum(bytes);
      world().reduce_scatter(whole, Tensor(expected.data(), dtype, {n}));
      world().start_reduce_scatter(whole, Tensor(sum.data(), dtype, {n}))->wait();
      EXPECT_EQ(sum, expected);
      world().start_reduce_scatter(whole, whole.slice(me * n, (me + 1) * n))->wait();  // in place
      EXPECT_TRUE(
          std::equal(expected.begin(), expected.end(), input.begin() + me * static_cast<long>(bytes)));
      std::vector<std::uint8_t> all(bytes * ranks);
      std::vector<std::uint8_t> gathered(bytes * ranks);
      world().all_gather(Tensor(sum.data(), dtype, {n}), Tensor(all.data(), dtype, {n * world().size()}));
      world()
          .start_all_gather(Tensor(sum.data(), dtype, {n}),
                            Tensor(gathered.data(), dtype, {n * world().size()}))
          ->wait();
      EXPECT_EQ(gathered, all);
      world().start_all_gather(whole.slice(me * n, (me + 1) * n), whole)->wait();  // in place
      EXPECT_EQ(input, all);
    }
  }
}

TEST(Transfers, DestructionWaits) {
  Buffer rows(world(), 1, DType::f32, 1000, many);
  world().start_exchange({&rows.part, 1}).reset();
  EXPECT_TRUE(rows.recv == rows.expected);
}

// Nobody enters MPI until all rows are there: if they need the caller, this test hangs and is ended.
TEST(Transfers, AdvanceWithoutTheCaller) {
  if (world().size() > 1 && !asynchronous_progress()) GTEST_SKIP() << "this MPI allows no thread of its own";
  Buffer rows(world(), 1, DType::f32, 5000, [](int, int) { return std::int64_t{40}; });
  const auto transfer = world().start_exchange({&rows.part, 1});
  for (std::size_t i = 0; i < rows.recv.size(); i += 61) {
    const std::atomic_ref<std::uint8_t> arriving(rows.recv[i]);
    while (arriving.load() != rows.expected[i]) std::this_thread::yield();
  }
  transfer->wait();
  EXPECT_TRUE(rows.recv == rows.expected);
}

TEST(Transfers, SteadyStateAllocatesNothing) {
  const auto group = world().split(0, world().rank(), "steady");
  const auto ranks = static_cast<std::size_t>(world().size());
  std::vector<float> large(50000 * ranks);
  std::vector<float> small(1000 * ranks);
  std::vector<float> part(50000);
  std::vector<float> other(1000);
  const auto allocations = [&] {
    std::int64_t n = 0;
    for (const Arena* arena : group->arenas()) n += arena->device_allocations();
    return n;
  };
  const auto step = [&] {
    auto first = group->start_reduce_scatter(view(large), view(part));
    auto second = group->start_reduce_scatter(view(small), view(other));
    first->wait();
    auto third = group->start_reduce_scatter(view(large), view(part));
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
  EXPECT_EQ(group->arenas().size(), world().size() > 1 ? 3U : 1U);
}

TEST(Transfers, RefuseWhatTheBlockingOnesRefuse) {
  Buffer rows(world(), 1, DType::f32, 2, [](int, int) { return std::int64_t{3}; });
  std::vector<std::int64_t> wrong = rows.send_rows;
  ++wrong.back();
  ExchangePart part = rows.part;
  part.send_rows = wrong;
  EXPECT_THROW(world().start_exchange({&part, 1}), InvariantError);
  std::vector<float> a(3);
  EXPECT_THROW(world().start_reduce_scatter(view(a), Tensor(a.data(), DType::f32, {5})), InvariantError);
  EXPECT_THROW(world().start_all_gather(view(a), Tensor(a.data(), DType::f32, {1})), InvariantError);
}

// Two ranks a node: what crosses is what goes to ranks whose half of the number differs.
TEST(Transfers, BytesBetweenNodesAreThoseToRanksOfOtherNodes) {
  const int ranks = world().size();
  const auto group = world().split(0, world().rank(), "nodes");
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
  EXPECT_EQ(crossed([&] { group->all_reduce(view(large), ReduceOp::sum); }), 2 * 100000 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->all_reduce(view(small), ReduceOp::sum); }), 10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->all_gather(view(small), view(gathered)); }), 10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->start_all_gather(view(small), view(gathered)); }), 10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->reduce_scatter(view(gathered), view(small)); }), 10 * 4 * remote);
  EXPECT_EQ(crossed([&] { group->start_reduce_scatter(view(gathered), view(small)); }), 10 * 4 * remote);
  for (int root = 0; root < ranks; ++root)
    EXPECT_EQ(crossed([&] { group->broadcast(view(small), root); }), me == root ? 10 * 4 * remote : 0);
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
