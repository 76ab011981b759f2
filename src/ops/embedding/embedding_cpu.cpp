#include "ops/embedding/embedding_cpu.h"

#include <algorithm>

#include "base/parallel.h"
#include "ops/gather/gather_cpu.h"

namespace xmoe::cpu {

namespace {

// Columns of a thread's share in backward: a cache line of floats, so that threads never write to the same
// line.
constexpr std::int64_t kLine = 16;

void check_ids(const Tensor& ids, std::int64_t vocabulary) {
  const auto* id = ids.data<std::int32_t>();
  for (std::int64_t t = 0; t < ids.dim(0); ++t)
    if (id[t] >= vocabulary)
      fail(
          "token id {} at position {} is outside the embedding table of {} rows; was the data prepared with "
          "the tokenizer of this model?",
          id[t], t, vocabulary);
}

}  // namespace

void embedding_forward(const Tensor& ids, const Tensor& table, const Tensor& out) {
  check_ids(ids, table.dim(0));
  gather_rows(table, ids, out);
}

// Threads divide the columns, not the rows: every element of the table is then summed by one thread in order
// of t, and frequent tokens are no one's burden.
void embedding_backward(const Tensor& ids, const Tensor& dout, const Tensor& dtable) {
  check_ids(ids, dtable.dim(0));
  const std::int64_t tokens = ids.dim(0);
  const std::int64_t width = dtable.dim(1);
  const auto* id = ids.data<std::int32_t>();
  auto* to = dtable.data<float>();
  with_float(dout.dtype(), [&]<typename T>(T) {
    const auto* from = dout.data<T>();
    parallel_for((width + kLine - 1) / kLine, 1, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t begin = first * kLine;
      const std::int64_t end = std::min(width, last * kLine);
      for (std::int64_t t = 0; t < tokens; ++t) {
        if (id[t] < 0) continue;
        const T* row = from + t * width;
        float* sum = to + id[t] * width;
#pragma omp simd
        for (std::int64_t h = begin; h < end; ++h) sum[h] += static_cast<float>(row[h]);
      }
    });
  });
}

}  // namespace xmoe::cpu
