// Bound by the bytes of x: the table is small enough for the caches. A block is row_block over the pairs of
// elements of a row, N of them per thread. No shared memory.
#include "ops/rope/rope_gpu.h"

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

// sign: +1 forward, -1 backward. `columns`: threads' shares of the rotated part of a row.
template <int N, typename T>
__global__ void rope_kernel(T* x, const float* table, float sign, std::int64_t rows,
                            std::int64_t row_elements, std::int64_t positions, int half, int columns) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (t >= rows) return;
  const float* angles = table + t % positions * 2 * half;
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += static_cast<int>(blockDim.x)) {
    const int head = column / (half / N);
    const int i = column % (half / N) * N;
    T* first = x + t * row_elements + std::int64_t{head} * 2 * half + i;
    float cosine[N];
    float sine[N];
    float a[N];
    float b[N];
    load<N>(angles + i, cosine);
    load<N>(angles + half + i, sine);
    load<N>(first, a);
    load<N>(first + half, b);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float s = sign * sine[j];
      const float rotated = a[j] * cosine[j] - b[j] * s;
      b[j] = b[j] * cosine[j] + a[j] * s;
      a[j] = rotated;
    }
    store<N>(a, first);
    store<N>(b, first + half);
  }
}

}  // namespace

void rope(const Context& ctx, RopeDirection direction, std::int64_t rotated_heads, const Tensor& x,
          const Tensor& table) {
  check_device(ctx.device(), {x, table});
  const std::int64_t half = x.dim(2) / 2;
  if (rotated_heads == 0 || half == 0) return;
  const float sign = direction == RopeDirection::forward ? 1.0F : -1.0F;
  with_float(x.dtype(), [&]<typename T>(T) {
    with_pack(packable(half, {x.raw(), table.raw()}), [&]<int N>() {
      const std::int64_t columns = rotated_heads * half / N;
      const Block block = row_block(columns);
      launch(rope_kernel<N, T>, grid_of(x.dim(0), block.y), block, 0, stream(ctx.device()), x.data<T>(),
             table.data<float>(), sign, x.dim(0), x.dim(1) * x.dim(2), table.dim(0), static_cast<int>(half),
             static_cast<int>(columns));
    });
  });
}

}  // namespace xmoe::gpu
