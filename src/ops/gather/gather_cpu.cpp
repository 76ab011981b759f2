// Both are bound by memory: rows are read and written whole, once.
#include "ops/gather/gather_cpu.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/parallel.h"
#include "ops/cpu_rows.h"

namespace xmoe::cpu {

namespace {

// Bytes of rows that a thread must have to be worth waking: some 10 microseconds of work.
constexpr std::int64_t kGrainBytes = std::int64_t{1} << 16;
// Columns summed at a time: 2 KB of sums stay in the first cache beside the rows that stream through it.
constexpr std::int64_t kColumns = 512;

std::int64_t grain_rows(std::int64_t row_bytes) {
  return std::max<std::int64_t>(1, kGrainBytes / std::max<std::int64_t>(1, row_bytes));
}

// Adds N rows, in their order, to the sums. N streams at once keep the memory busy where one would wait for
// it.
template <std::size_t N, typename T>
void add_rows(const T* const* rows, std::int64_t columns, float* sums) {
  std::array<const T*, N> row;
  std::copy_n(rows, N, row.begin());
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) {
    float sum = sums[c];
    for (std::size_t j = 0; j < N; ++j) sum += static_cast<float>(row[j][c]);
    sums[c] = sum;
  }
}

template <typename T>
void add_rows(const T* const* rows, std::int64_t count, std::int64_t columns, float* sums) {
  for (; count >= 4; count -= 4, rows += 4) add_rows<4>(rows, columns, sums);
  if (count == 3) add_rows<3>(rows, columns, sums);
  if (count == 2) add_rows<2>(rows, columns, sums);
  if (count == 1) add_rows<1>(rows, columns, sums);
}

// The sum of the rows that the slots of one token name, into target [H].
template <typename T>
void combine_row(const T* from, const std::int32_t* slots, std::int64_t k, std::int64_t width, T* target) {
  constexpr std::int64_t kSlots = 16;  // named at a time: more than any published top-k
  std::array<float, kColumns> sums;
  std::array<const T*, kSlots> rows;
  for (std::int64_t h = 0; h < width; h += kColumns) {
    const std::int64_t columns = std::min(kColumns, width - h);
    std::fill_n(sums.data(), columns, 0.0F);
    for (std::int64_t first = 0; first < k; first += kSlots) {
      std::int64_t count = 0;
      for (std::int64_t j = first; j < std::min(k, first + kSlots); ++j)
        if (slots[j] >= 0) rows[static_cast<std::size_t>(count++)] = from + slots[j] * width + h;
      add_rows(rows.data(), count, columns, sums.data());
    }
#pragma omp simd
    for (std::int64_t c = 0; c < columns; ++c) round_to(sums[static_cast<std::size_t>(c)], target[h + c]);
  }
}

// Calls f(bytes of a row of x, how one is copied, how one is cleared). Single numbers (weights, indices) are
// copied as such: a call of memcpy for each would take several times as long.
template <typename F>
void with_row_mover(const Tensor& x, F&& f) {
  const std::size_t bytes = static_cast<std::size_t>(x.dim(1)) * size_of(x.dtype());
  const auto row_bytes = static_cast<std::int64_t>(bytes);
  if (row_bytes == 0) return;
  if (row_bytes == sizeof(std::uint32_t))
    return f(
        row_bytes, [](const std::byte* from, std::byte* to) { std::memcpy(to, from, sizeof(std::uint32_t)); },
        [](std::byte* to) { std::memset(to, 0, sizeof(std::uint32_t)); });
  f(
      row_bytes, [bytes](const std::byte* from, std::byte* to) { std::memcpy(to, from, bytes); },
      [bytes](std::byte* to) { std::memset(to, 0, bytes); });
}

}  // namespace

void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
  with_row_mover(x, [&](std::int64_t row_bytes, auto move, auto clear) {
    const std::int64_t rows = x.dim(0);
    const auto* from = static_cast<const std::byte*>(x.raw());
    const auto* ids = index.data<std::int32_t>();
    auto* to = static_cast<std::byte*>(out.raw());
    parallel_for(index.dim(0), grain_rows(row_bytes), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int32_t id = ids[i];
        XMOE_CHECK(id < rows, "index[{}] is {}, there are {} rows", i, id, rows);
        if (id < 0)
          clear(to + i * row_bytes);
        else
          move(from + id * row_bytes, to + i * row_bytes);
      }
    });
  });
}

void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
  with_row_mover(x, [&](std::int64_t row_bytes, auto move, auto /*clear*/) {
    const std::int64_t rows = out.dim(0);
    const auto* from = static_cast<const std::byte*>(x.raw());
    const auto* ids = index.data<std::int32_t>();
    auto* to = static_cast<std::byte*>(out.raw());
    parallel_for(index.dim(0), grain_rows(row_bytes), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int32_t id = ids[i];
        XMOE_CHECK(id < rows, "index[{}] is {}, there are {} rows", i, id, rows);
        if (id >= 0) move(from + i * row_bytes, to + id * row_bytes);
      }
    });
  });
}

void combine_rows(const Tensor& rows, const Tensor& index, const Tensor& out) {
  const std::int64_t count = rows.dim(0);
  const std::int64_t width = rows.dim(1);
  const std::int64_t slots = index.dim(1);
  const auto* ids = index.data<std::int32_t>();
  with_float(rows.dtype(), [&]<typename T>(T) {
    const auto* from = rows.data<T>();
    auto* to = out.data<T>();
    const std::int64_t row_bytes = width * static_cast<std::int64_t>(sizeof(T)) * (slots + 1);
    parallel_for(index.dim(0), grain_rows(row_bytes), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t j = 0; j < slots; ++j)
          XMOE_CHECK(ids[t * slots + j] < count, "index[{}, {}] is {}, there are {} rows", t, j,
                     ids[t * slots + j], count);
        combine_row(from, ids + t * slots, slots, width, to + t * width);
      }
    });
  });
}

}  // namespace xmoe::cpu
