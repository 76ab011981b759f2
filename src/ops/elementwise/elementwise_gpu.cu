// Both are bound by bytes. A thread takes kPack elements in a row, or one where the memory is not aligned for
// that; the elements behind the last whole pack are taken one by one by the first threads. No shared memory.
#include "ops/elementwise/elementwise_gpu.h"

#include "device/gpu.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

template <int N, typename A, typename B, typename Out>
__device__ void add_at(const A* a, const B* b, Out* out, std::int64_t i) {
  float x[N];
  float y[N];
  load<N>(a + i, x);
  load<N>(b + i, y);
#pragma unroll
  for (int j = 0; j < N; ++j) x[j] += y[j];
  store<N>(x, out + i);
}

template <int N, typename From, typename To>
__device__ void convert_at(const From* from, To* to, std::int64_t i) {
  float x[N];
  load<N>(from + i, x);
  store<N>(x, to + i);
}

template <int N, typename A, typename B, typename Out>
__global__ void add_kernel(const A* a, const B* b, Out* out, std::int64_t count) {
  const std::int64_t thread = thread_index();
  const std::int64_t packs = count / N;
  if (thread < packs) add_at<N>(a, b, out, thread * N);
  if (thread < count - packs * N) add_at<1>(a, b, out, packs * N + thread);
}

template <int N, typename From, typename To>
__global__ void convert_kernel(const From* from, To* to, std::int64_t count) {
  const std::int64_t thread = thread_index();
  const std::int64_t packs = count / N;
  if (thread < packs) convert_at<N>(from, to, thread * N);
  if (thread < count - packs * N) convert_at<1>(from, to, packs * N + thread);
}

// Threads for the packs, or for what is behind them where that is more.
Grid grid_of_packs(std::int64_t count, int pack) {
  return grid_of(ceil_div(count, pack) + pack, kBlockThreads);
}

}  // namespace

void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_device(ctx.device(), {a, b, out});
  const std::int64_t count = a.numel();
  if (count == 0) return;
  with_half({a.dtype(), b.dtype(), out.dtype()}, [&]<typename Half>(Half) {
    with_float_or<Half>(a.dtype(), [&]<typename A>(A) {
      with_float_or<Half>(b.dtype(), [&]<typename B>(B) {
        with_float_or<Half>(out.dtype(), [&]<typename Out>(Out) {
          with_pack(aligned({a.raw(), b.raw(), out.raw()}), [&]<int N>() {
            launch(add_kernel<N, A, B, Out>, grid_of_packs(count, N), Block(kBlockThreads), 0,
                   stream(ctx.device()), a.data<A>(), b.data<B>(), out.data<Out>(), count);
          });
        });
      });
    });
  });
}

void convert(const Context& ctx, const Tensor& from, const Tensor& to) {
  check_device(ctx.device(), {from, to});
  if (from.dtype() == to.dtype()) return xmoe::copy(ctx, from, to);
  const std::int64_t count = from.numel();
  if (count == 0) return;
  with_half({from.dtype(), to.dtype()}, [&]<typename Half>(Half) {
    with_float_or<Half>(from.dtype(), [&]<typename From>(From) {
      with_float_or<Half>(to.dtype(), [&]<typename To>(To) {
        with_pack(aligned({from.raw(), to.raw()}), [&]<int N>() {
          launch(convert_kernel<N, From, To>, grid_of_packs(count, N), Block(kBlockThreads), 0,
                 stream(ctx.device()), from.data<From>(), to.data<To>(), count);
        });
      });
    });
  });
}

}  // namespace xmoe::gpu
