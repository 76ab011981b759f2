// Both are bound by bytes. A block is row_block: threads side by side along rows, 16 bytes each where rows
// allow it, and several rows at a time. No shared memory.
#include "ops/gather/gather_gpu.h"

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr FaultKind kBeyondRows{"index: entry {position} is {value}, there are {bound} rows", true};

// Rows that a thread moves together: as many reads are under way before the first is waited for, which hides
// that a row's address must be read first.
constexpr int kRows = 4;

template <typename Piece>
__global__ void gather_kernel(const Piece* x, const std::int32_t* index, Piece* out, std::int64_t rows,
                              std::int64_t count, std::int64_t columns, FaultReport beyond_rows) {
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * kRows;
  std::int64_t from[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    from[r] = first + r < count ? index[first + r] : -1;
    if (from[r] < rows) continue;
    if (threadIdx.x == 0) beyond_rows.raise(first + r, from[r], rows);
    from[r] = -1;
  }
  for (std::int64_t c = threadIdx.x; c < columns; c += blockDim.x) {
    Piece pieces[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) pieces[r] = from[r] >= 0 ? x[from[r] * columns + c] : Piece{};
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (first + r < count) out[(first + r) * columns + c] = pieces[r];
  }
}

template <typename Piece>
__global__ void scatter_kernel(const Piece* x, const std::int32_t* index, Piece* out, std::int64_t rows,
                               std::int64_t count, std::int64_t columns, FaultReport beyond_rows) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= count || index[i] < 0) return;
  const std::int64_t to = index[i];
  if (to >= rows) {
    if (threadIdx.x == 0) beyond_rows.raise(i, to, rows);
    return;
  }
  for (std::int64_t c = threadIdx.x; c < columns; c += blockDim.x) out[to * columns + c] = x[i * columns + c];
}

template <typename Piece>
void scatter(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out,
             std::int64_t row_bytes) {
  const auto columns = row_bytes / static_cast<std::int64_t>(sizeof(Piece));
  const Block block = row_block(columns);
  launch(scatter_kernel<Piece>, grid_of(index.dim(0), block.y), block, 0, stream(ctx.device()),
         static_cast<const Piece*>(x.raw()), index.data<std::int32_t>(), static_cast<Piece*>(out.raw()),
         out.dim(0), index.dim(0), columns, FaultReport(ctx.device(), kBeyondRows));
}

template <typename Piece>
void gather(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out,
            std::int64_t row_bytes, const FaultKind& beyond_rows) {
  const auto columns = row_bytes / static_cast<std::int64_t>(sizeof(Piece));
  const Block block = row_block(columns);
  launch(gather_kernel<Piece>, grid_of(index.dim(0), std::int64_t{block.y} * kRows), block, 0,
         stream(ctx.device()), static_cast<const Piece*>(x.raw()), index.data<std::int32_t>(),
         static_cast<Piece*>(out.raw()), x.dim(0), index.dim(0), columns,
         FaultReport(ctx.device(), beyond_rows));
}

// One token per row of the block; N elements at a time, 16 bytes at most.
template <int N, typename T>
__global__ void combine_kernel(const T* rows, const std::int32_t* index, T* out, std::int64_t row_count,
                               std::int64_t tokens, std::int64_t slots, std::int64_t width,
                               FaultReport beyond_rows) {
  // Rows whose reads are under way together, before the first is added: as many as most models choose
  // experts.
  constexpr int kTogether = 8;
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (t >= tokens) return;
  const std::int32_t* ids = index + t * slots;
  for (std::int64_t c = static_cast<std::int64_t>(threadIdx.x) * N; c < width;
       c += static_cast<std::int64_t>(blockDim.x) * N) {
    float sums[N] = {};
    for (std::int64_t first = 0; first < slots; first += kTogether) {
      Raw<T, N> terms[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        std::int64_t id = first + j < slots ? ids[first + j] : -1;
        if (id >= row_count) {
          if (c == 0) beyond_rows.raise(t * slots + first + j, id, row_count);
          id = -1;
        }
        if (id >= 0) terms[j] = load_raw<N>(rows + id * width + c);  // else zeros
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        float values[N];
        to_floats(terms[j], values);
#pragma unroll
        for (int i = 0; i < N; ++i) sums[i] += values[i];
      }
    }
    store<N>(sums, out + t * width + c);
  }
}

}  // namespace

void gather_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out) {
  gather_rows(ctx, x, index, out, kBeyondRows);
}

void gather_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out,
                 const FaultKind& beyond_rows) {
  check_device(ctx.device(), {x, index, out});
  const std::int64_t row_bytes = x.dim(1) * static_cast<std::int64_t>(size_of(x.dtype()));
  if (row_bytes == 0) return;
  if (row_bytes % kAccessBytes == 0 && aligned({x.raw(), out.raw()}))
    gather<uint4>(ctx, x, index, out, row_bytes, beyond_rows);
  else if (size_of(x.dtype()) == sizeof(std::uint32_t))
    gather<std::uint32_t>(ctx, x, index, out, row_bytes, beyond_rows);
  else
    gather<std::uint16_t>(ctx, x, index, out, row_bytes, beyond_rows);
}

void scatter_rows(const Context& ctx, const Tensor& x, const Tensor& index, const Tensor& out) {
  check_device(ctx.device(), {x, index, out});
  const std::int64_t row_bytes = x.dim(1) * static_cast<std::int64_t>(size_of(x.dtype()));
  if (row_bytes == 0) return;
  if (row_bytes % kAccessBytes == 0 && aligned({x.raw(), out.raw()}))
    scatter<uint4>(ctx, x, index, out, row_bytes);
  else if (size_of(x.dtype()) == sizeof(std::uint32_t))
    scatter<std::uint32_t>(ctx, x, index, out, row_bytes);
  else
    scatter<std::uint16_t>(ctx, x, index, out, row_bytes);
}

void combine_rows(const Context& ctx, const Tensor& rows, const Tensor& index, const Tensor& out) {
  check_device(ctx.device(), {rows, index, out});
  const std::int64_t width = rows.dim(1);
  if (width == 0) return;
  with_float(rows.dtype(), [&]<typename T>(T) {
    const auto run = [&]<int N>() {
      const Block block = row_block(width / N);
      launch(combine_kernel<N, T>, grid_of(index.dim(0), block.y), block, 0, stream(ctx.device()),
             rows.data<T>(), index.data<std::int32_t>(), out.data<T>(), rows.dim(0), index.dim(0),
             index.dim(1), width, FaultReport(ctx.device(), kBeyondRows));
    };
    constexpr int kWidest = kAccessBytes / sizeof(T);
    if (width % kWidest == 0 && aligned({rows.raw(), out.raw()}))
      run.template operator()<kWidest>();
    else
      run.template operator()<1>();
  });
}

}  // namespace xmoe::gpu
