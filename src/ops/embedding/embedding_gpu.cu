// Both are bound by bytes. Forward is the gather of rows. Backward sorts the tokens by id, equal ids in order
// of the token; then the rows of one id are summed by the same threads, in order and without atomics.
#include "ops/embedding/embedding_gpu.h"

#include <algorithm>

#include "device/gpu.h"
#include "device/sort_gpu.h"
#include "ops/gather/gather_gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr FaultKind kOutsideTable{
    "token id {value} at position {position} is outside the embedding table of {bound} rows; was the data "
    "prepared with the tokenizer of this model?",
    false};

// Threads of a block in backward: few, so that the columns of a frequent id are spread over multiprocessors.
constexpr int kSegmentThreads = 64;
// Rows whose reads are under way together.
constexpr int kTogether = 4;

// A block takes kSegmentThreads packs of columns (y) of the id that begins at place x of the sorted ids, and
// has no work where none begins. No shared memory.
template <int N, typename T>
__global__ void backward_kernel(const std::int32_t* sorted, const std::int32_t* places, const T* dout,
                                std::int64_t tokens, std::int64_t rows, std::int64_t width, float* dtable,
                                FaultReport outside_table) {
  const std::int64_t begin = blockIdx.x;
  const std::int32_t id = sorted[begin];
  if (id < 0 || (begin > 0 && sorted[begin - 1] == id)) return;
  if (id >= rows) {
    if (threadIdx.x == 0 && blockIdx.y == 0) outside_table.raise(places[begin], id, rows);
    return;
  }
  const std::int64_t c = (static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (c >= width) return;
  float sums[N];
  load<N>(dtable + id * width + c, sums);
  for (std::int64_t i = begin; i < tokens && sorted[i] == id; i += kTogether) {
    Raw<T, N> terms[kTogether];  // zeros behind the last
#pragma unroll
    for (int j = 0; j < kTogether; ++j)
      if (i + j < tokens && sorted[i + j] == id) terms[j] = load_raw<N>(dout + places[i + j] * width + c);
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      float values[N];
      to_floats(terms[j], values);
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k] += values[k];
    }
  }
  store<N>(sums, dtable + id * width + c);
}

}  // namespace

void embedding_forward(const Context& ctx, const Tensor& ids, const Tensor& table, const Tensor& out) {
  gather_rows(ctx, table, ids, out, kOutsideTable);
}

void embedding_backward(const Context& ctx, const Tensor& ids, const Tensor& dout, const Tensor& dtable) {
  check_device(ctx.device(), {ids, dout, dtable});
  const std::int64_t tokens = ids.dim(0);
  const std::int64_t width = dtable.dim(1);
  if (tokens == 0 || width == 0) return;
  const ArenaScope scope(ctx.workspace);
  const Tensor sorted = ctx.workspace.tensor(DType::i32, {tokens});
  const Tensor places = ctx.workspace.tensor(DType::i32, {tokens});
  sort_with_places(ctx, ids, sorted, places);
  with_float(dout.dtype(), [&]<typename T>(T) {
    with_pack(packable(width, {dout.raw(), dtable.raw()}), [&]<int N>() {
      const Grid grid(static_cast<unsigned>(tokens),
                      static_cast<unsigned>(ceil_div(width, std::int64_t{N} * kSegmentThreads)));
      launch(backward_kernel<N, T>, grid, Block(kSegmentThreads), 0, stream(ctx.device()),
             sorted.data<std::int32_t>(), places.data<std::int32_t>(), dout.data<T>(), tokens, dtable.dim(0),
             width, dtable.data<float>(), FaultReport(ctx.device(), kOutsideTable));
    });
  });
}

}  // namespace xmoe::gpu
