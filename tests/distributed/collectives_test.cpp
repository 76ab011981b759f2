// Collectives against an oracle: every rank's input is a function of (rank, element), so that each rank can
// work out what it should get without communicating.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "comm/communicator.h"
#include "comm/mesh.h"
#include "distributed/support.h"

namespace xmoe {
namespace {

using distributed::Mirror;
using distributed::tested;

// Sizes around the number of ranks, around the switch from a gather to an exchange of parts, and beyond one
// chunk of every dtype (4 MiB are 2 Mi elements of bf16).
const std::vector<std::int64_t> kSizes = {0, 1, 2, 3, 7, 8, 9, 1000, 16385, 100003, 2200003};

float value_of(int rank, std::int64_t i) {
  const Rng rng(static_cast<std::uint64_t>(rank), std::uint64_t{17});
  // Of very different magnitudes: a sum in another order has other bits.
  const double scale = std::ldexp(1.0, static_cast<int>(rng.bits(static_cast<std::uint64_t>(i)) % 24));
  return static_cast<float>(rng.uniform(static_cast<std::uint64_t>(i)) * scale - 0.25 * scale);
}

template <typename T>
T input_of(int rank, std::int64_t i) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>((rank + 1) * 1000003 + i * 7);
  } else {
    const float smaller = std::is_same_v<T, f16> ? 0x1p-11F : 1.0F;  // so that no sum is beyond its range
    return T(value_of(rank, i) * smaller);
  }
}

template <typename T>
std::vector<T> inputs_of(int rank, std::int64_t n) {
  std::vector<T> values(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = input_of<T>(rank, i);
  return values;
}

template <typename T>
Tensor view(std::vector<T>& values) {
  return {values.data(), dtype_of<T>::value, {static_cast<std::int64_t>(values.size())}};
}

template <typename T>
T reduced(ReduceOp op, std::int64_t i, int ranks) {
  using A = std::conditional_t<std::is_integral_v<T>, T, float>;
  A result = static_cast<A>(input_of<T>(0, i));
  for (int r = 1; r < ranks; ++r) {
    const A next = static_cast<A>(input_of<T>(r, i));
    if (op == ReduceOp::sum) result += next;
    if (op == ReduceOp::max) result = std::max(result, next);
    if (op == ReduceOp::min) result = std::min(result, next);
  }
  return T(result);
}

template <typename T>
bool same_bits(const T& a, const T& b) {
  using Bytes = std::array<std::byte, sizeof(T)>;
  return std::bit_cast<Bytes>(a) == std::bit_cast<Bytes>(b);
}

// Whether `value` is element i of the reduction over all ranks: to the bit, where sums are in rank order,
// else within what the order of the ranks can change.
template <typename T>
bool is_reduction(const T& value, ReduceOp op, std::int64_t i) {
  const int ranks = tested().size();
  const T expected = reduced<T>(op, i, ranks);
  if constexpr (!std::is_integral_v<T>) {
    if (op == ReduceOp::sum && !distributed::sums_in_rank_order()) {
      const float rounding = sizeof(T) == 4 ? 0x1p-24F : 0x1p-9F;
      float magnitude = 0.0F;
      for (int r = 0; r < ranks; ++r) magnitude += std::abs(static_cast<float>(input_of<T>(r, i)));
      const float error = std::abs(static_cast<float>(value) - static_cast<float>(expected));
      return error <= 2.0F * static_cast<float>(ranks) * rounding * magnitude;
    }
  }
  return same_bits(value, expected);
}

// Elements that are looked at in a large tensor: a stride that meets every part, chunk and remainder.
std::int64_t stride_of(std::int64_t n) { return n > 20000 ? 97 : 1; }

template <typename T>
class Reductions : public testing::Test {};
using Reducible = testing::Types<float, bf16, f16, std::int64_t>;
TYPED_TEST_SUITE(Reductions, Reducible);

TYPED_TEST(Reductions, AllReduceGivesTheSumInRankOrder) {
  for (const std::int64_t n : kSizes) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      if (op != ReduceOp::sum && n > 20000) continue;  // the same path with another kernel
      auto values = inputs_of<TypeParam>(tested().rank(), n);
      const Mirror mirror(view(values));
      tested().all_reduce(mirror.tensor(), op);
      mirror.fetch();
      std::int64_t wrong = 0;
      for (std::int64_t i = 0; i < n; i += stride_of(n))
        wrong += is_reduction(values[static_cast<std::size_t>(i)], op, i) ? 0 : 1;
      EXPECT_EQ(wrong, 0) << "of " << n << " elements";
    }
  }
}

TYPED_TEST(Reductions, AllReduceTwiceGivesTheSameBits) {
  auto first = inputs_of<TypeParam>(tested().rank(), 100003);
  auto second = first;
  const Mirror once(view(first));
  const Mirror again(view(second));
  tested().all_reduce(once.tensor(), ReduceOp::sum);
  tested().all_reduce(again.tensor(), ReduceOp::sum);
  once.fetch();
  again.fetch();
  EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(TypeParam)), 0);
}

TYPED_TEST(Reductions, ReduceScatterGivesThisRanksPartOfTheSum) {
  const int ranks = tested().size();
  for (const std::int64_t n : {0, 1, 5, 300007}) {
    auto input = inputs_of<TypeParam>(tested().rank(), n * ranks);
    std::vector<TypeParam> output(static_cast<std::size_t>(n));
    const Mirror all(view(input));
    const Mirror part(view(output));
    tested().reduce_scatter(all.tensor(), part.tensor());
    part.fetch();
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < n; i += stride_of(n))
      wrong +=
          is_reduction(output[static_cast<std::size_t>(i)], ReduceOp::sum, tested().rank() * n + i) ? 0 : 1;
    EXPECT_EQ(wrong, 0) << "of " << n << " elements";
  }
}

TEST(Collectives, NanOnOneRankReachesAll) {
  std::vector<float> values(100, tested().rank() == tested().size() - 1 ? std::nanf("") : 1.0F);
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    auto copy = values;
    const Mirror mirror(view(copy));
    tested().all_reduce(mirror.tensor(), op);
    mirror.fetch();
    EXPECT_TRUE(std::isnan(copy.front()) && std::isnan(copy.back()));
  }
}

class EveryDType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Collectives, EveryDType,
                         testing::Values(DType::f32, DType::bf16, DType::f16, DType::i32, DType::i64,
                                         DType::u8),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// Rows of `width` elements as bytes that say where they come from.
std::vector<std::uint8_t> rows_from(int rank, int tag, std::int64_t rows, std::int64_t row_bytes) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(rows * row_bytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] =
        static_cast<std::uint8_t>(static_cast<std::size_t>(rank * 31 + tag * 7 + 1) + i * 13 + i / 251);
  }
  return bytes;
}

TEST_P(EveryDType, AllGatherOrdersByRank) {
  const std::int64_t width = 3;
  const auto row_bytes = width * static_cast<std::int64_t>(size_of(GetParam()));
  for (const std::int64_t n : {0, 1, 2, 1001}) {
    auto mine = rows_from(tested().rank(), 0, n, row_bytes);
    std::vector<std::uint8_t> expected;
    for (int r = 0; r < tested().size(); ++r) {
      const auto part = rows_from(r, 0, n, row_bytes);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    std::vector<std::uint8_t> all(expected.size());
    const Tensor output(all.data(), GetParam(), {n * tested().size(), width});
    {
      const Mirror in(Tensor(mine.data(), GetParam(), {n, width}));
      const Mirror out(output);
      tested().all_gather(in.tensor(), out.tensor());
      out.fetch();
      EXPECT_EQ(all, expected);
    }
    // In place: the input is this rank's part of the output.
    std::fill(all.begin(), all.end(), std::uint8_t{0});
    std::copy(mine.begin(), mine.end(), all.begin() + tested().rank() * n * row_bytes);
    const Mirror out(output);
    tested().all_gather(out.tensor().slice(tested().rank() * n, (tested().rank() + 1) * n), out.tensor());
    out.fetch();
    EXPECT_EQ(all, expected);
  }
}

TEST_P(EveryDType, BroadcastFromEveryRoot) {
  for (int root = 0; root < tested().size(); ++root) {
    for (const std::int64_t n : {0, 1, 777}) {
      auto values = rows_from(tested().rank(), root, n, static_cast<std::int64_t>(size_of(GetParam())));
      const Mirror mirror(Tensor(values.data(), GetParam(), {n}));
      tested().broadcast(mirror.tensor(), root);
      mirror.fetch();
      EXPECT_EQ(values, rows_from(root, root, n, static_cast<std::int64_t>(size_of(GetParam()))));
    }
  }
}

// Exchanges rows(from, to) rows between every pair and compares with the oracle. Returns the rows sent to
// others.
template <typename Rows>
std::int64_t exchange(DType dtype, std::int64_t width, Rows rows) {
  const int me = tested().rank();
  const auto row_bytes = width * static_cast<std::int64_t>(size_of(dtype));
  std::vector<std::int64_t> send_rows;
  std::vector<std::int64_t> recv_rows;
  std::vector<std::uint8_t> send;
  std::vector<std::uint8_t> expected;
  std::int64_t sent = 0;
  std::int64_t received = 0;
  std::int64_t off_rank = 0;
  for (int peer = 0; peer < tested().size(); ++peer) {
    send_rows.push_back(rows(me, peer));
    recv_rows.push_back(rows(peer, me));
    const auto out = rows_from(me, peer, send_rows.back(), row_bytes);
    const auto in = rows_from(peer, me, recv_rows.back(), row_bytes);
    send.insert(send.end(), out.begin(), out.end());
    expected.insert(expected.end(), in.begin(), in.end());
    sent += send_rows.back();
    received += recv_rows.back();
    off_rank += peer == me ? 0 : send_rows.back();
  }
  std::vector<std::uint8_t> recv(expected.size());
  const Mirror out(Tensor(send.data(), dtype, {sent, width}));
  const Mirror in(Tensor(recv.data(), dtype, {received, width}));
  tested().all_to_all_v(out.tensor(), send_rows, in.tensor(), recv_rows);
  in.fetch();
  EXPECT_TRUE(recv == expected);
  return off_rank;
}

TEST_P(EveryDType, AllToAllOfUnevenRows) {
  exchange(GetParam(), 5, [](int from, int to) { return std::int64_t{(from * 7 + to * 3) % 5}; });
  exchange(GetParam(), 1, [](int from, int to) { return std::int64_t{from + to}; });
  exchange(GetParam(), 3, [](int, int) { return std::int64_t{0}; });                           // no rows
  exchange(GetParam(), 3, [](int, int to) { return std::int64_t{to == 0 ? 100 : 0}; });        // one gets all
  exchange(GetParam(), 3, [](int from, int) { return std::int64_t{from == 0 ? 100 : 0}; });    // one has all
  exchange(GetParam(), 3, [](int from, int to) { return std::int64_t{from == to ? 9 : 0}; });  // all stay
  exchange(GetParam(), 0, [](int, int) { return std::int64_t{4}; });  // rows of nothing
}

TEST(Collectives, AllToAllOfManyMegabytes) {
  exchange(DType::f32, 512, [](int from, int to) { return std::int64_t{400 + from * 10 + to}; });
}

TEST(Collectives, TrafficCountsWhatLeavesTheRank) {
  const std::int64_t ranks = tested().size();
  const auto sent_by = [&](auto&& collective) {
    const Traffic before = tested().traffic();
    collective();
    EXPECT_EQ(tested().traffic().calls, before.calls + 1);
    return tested().traffic().bytes_sent - before.bytes_sent;
  };
  std::vector<float> large(static_cast<std::size_t>(100000 * ranks));
  std::vector<float> small(10);
  std::vector<float> gathered(static_cast<std::size_t>(10 * ranks));
  const Mirror large_mirror(view(large));
  const Mirror small_mirror(view(small));
  const Mirror gathered_mirror(view(gathered));
  // A part to every other rank, then this rank's sum to every other rank.
  EXPECT_EQ(sent_by([&] { tested().all_reduce(large_mirror.tensor(), ReduceOp::sum); }),
            2 * 100000 * (ranks - 1) * 4);
  EXPECT_EQ(sent_by([&] { tested().all_reduce(small_mirror.tensor(), ReduceOp::sum); }),
            10 * (ranks - 1) * 4);
  EXPECT_EQ(sent_by([&] { tested().all_gather(small_mirror.tensor(), gathered_mirror.tensor()); }),
            10 * (ranks - 1) * 4);
  EXPECT_EQ(sent_by([&] { tested().reduce_scatter(gathered_mirror.tensor(), small_mirror.tensor()); }),
            10 * (ranks - 1) * 4);
  EXPECT_EQ(sent_by([&] { tested().broadcast(small_mirror.tensor(), 0); }),
            tested().rank() == 0 ? 10 * (ranks - 1) * 4 : 0);
  EXPECT_EQ(sent_by([&] { tested().barrier(); }), 0);
  std::int64_t off_rank = 0;
  const auto bytes = sent_by([&] {
    off_rank = exchange(DType::bf16, 7, [](int from, int to) { return std::int64_t{from + 2 * to}; });
  });
  EXPECT_EQ(bytes, off_rank * 7 * 2);
}

TEST(Collectives, ScratchIsBoundedAndAllocatedOnce) {
  const auto group = tested().split(0, tested().rank(), "scratch");
  std::vector<float> values(static_cast<std::size_t>(3 << 20));  // three chunks
  std::vector<float> part(values.size() / static_cast<std::size_t>(tested().size()));
  const Mirror all(view(values));
  const Mirror own(view(part));
  const auto collectives = [&] {
    group->all_reduce(all.tensor(), ReduceOp::sum);
    group->all_reduce(all.tensor().slice(0, 3), ReduceOp::max);
    group->reduce_scatter(all.tensor().slice(0, static_cast<std::int64_t>(part.size()) * tested().size()),
                          own.tensor());
  };
  collectives();
  collectives();  // the chunks of the first time are joined
  const auto allocations = group->scratch().device_allocations();
  for (int i = 0; i < 3; ++i) collectives();
  EXPECT_EQ(group->scratch().device_allocations(), allocations);
  EXPECT_EQ(group->scratch().in_use(), 0U);
  EXPECT_LE(group->scratch().reserved(), std::size_t{16} << 20);
}

TEST(Collectives, Conveniences) {
  const int ranks = tested().size();
  const int me = tested().rank();
  double sum = 0.0;
  for (int r = 0; r < ranks; ++r) sum += 0.1 * r + 1e10;
  EXPECT_EQ(tested().all_reduce(0.1 * me + 1e10, ReduceOp::sum), sum);
  EXPECT_EQ(tested().all_reduce(0.5 * me, ReduceOp::max), 0.5 * (ranks - 1));
  EXPECT_EQ(tested().all_reduce(0.5 * me + 1, ReduceOp::min), 1.0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(tested().all_reduce(me == 0 ? nan : 1.0, ReduceOp::max)));
  EXPECT_EQ(tested().all_reduce(std::int64_t{me} + (std::int64_t{1} << 53), ReduceOp::max),
            ranks - 1 + (std::int64_t{1} << 53));
  const auto texts =
      tested().all_gather_text(std::string(static_cast<std::size_t>(me), static_cast<char>('a' + me)));
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    EXPECT_EQ(texts[static_cast<std::size_t>(r)],
              std::string(static_cast<std::size_t>(r), static_cast<char>('a' + r)));
  }
}

TEST(Mesh, GroupsOfEveryExpertParallelSize) {
  const int ranks = tested().size();
  const int me = tested().rank();
  for (int ep = 1; ep <= ranks; ep *= 2) {
    const Mesh mesh(tested(), ep);
    EXPECT_EQ(mesh.ep().size(), ep);
    EXPECT_EQ(mesh.ep().rank(), me % ep);
    EXPECT_EQ(mesh.edp().size(), ranks / ep);
    EXPECT_EQ(mesh.edp().rank(), me / ep);
    std::int64_t ep_sum = 0;
    for (int i = 0; i < ep; ++i) ep_sum += me / ep * ep + i;
    EXPECT_EQ(mesh.ep().all_reduce(std::int64_t{me}, ReduceOp::sum), ep_sum);
    std::int64_t edp_sum = 0;
    for (int i = 0; i < ranks / ep; ++i) edp_sum += i * ep + me % ep;
    EXPECT_EQ(mesh.edp().all_reduce(std::int64_t{me}, ReduceOp::sum), edp_sum);
    // Groups do not disturb each other.
    tested().barrier();
  }
  EXPECT_THROW(Mesh(tested(), ranks + 1), Error);
}

}  // namespace
}  // namespace xmoe
