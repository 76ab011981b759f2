// GPUs multiply bf16 some fifteen times as fast as f32. An f32 number is the sum of three of bf16 (8 bits of
// its 24 each), and the product of two bf16 numbers is exact in f32. So the f32 factor is split and its parts
// stand beside each other in one product of bf16 with f32 sums:
//
//   logits   x [W0; W1; W2]^T, whose three parts are then added
//   dW       [d0 d1 d2]^T x, likewise
//   dx       [d0 d1 d0] [W0; W0; W1] = d W but for terms below 2^-16 of it: dx is rounded to 2^-9, or 2^-12
//
// dx of bf16 is added to in the product itself, in half the time: the product may be rounded before. Of a few
// experts dx is bound by bytes, and multipliers of f32 keep up with them.
//
// The rows are bf16, or the two parts of bf16 that an f16 number is the sum of (8 and 3 of its 11 bits): two
// products that are added up. Parts of f16 instead would be fewer, but do not have f32's range: those of
// usual weights would fall below its least number, and gradients of a scaled loss lie above its largest.
#include "ops/router/router_gpu.h"

#include <array>

#include "device/gpu.h"
#include "ops/elementwise/elementwise_gpu.h"
#include "ops/gemm/gemm_gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr int kParts = 3;
using Parts = std::array<int, kParts>;  // which part of the numbers stands in each place, 0 the highest
constexpr Parts kAll = {0, 1, 2};

// Places of parts, filled up with zeros: rows that begin on no 16 bytes slow the products down several times.
std::int64_t places(std::int64_t experts) { return ceil_div(kParts * experts, kPack) * kPack; }

// A thread per number. Bound by bytes.
__global__ void split_kernel(const float* from, std::int64_t count, std::int64_t columns, int first,
                             int second, int third, std::int64_t row_stride, std::int64_t part_stride,
                             bf16* to) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  bf16 parts[kParts];
  float rest = from[i];
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    round_to(rest, parts[p]);
    rest -= to_float(parts[p]);
  }
  const auto part = [&](int p) { return p == 0 ? parts[0] : p == 1 ? parts[1] : parts[2]; };
  bf16* place = to + i / columns * row_stride + i % columns;
  place[0] = part(first);
  place[part_stride] = part(second);
  place[2 * part_stride] = part(third);
}

void split(const Context& ctx, const Tensor& from, const Parts& parts, std::int64_t row_stride,
           std::int64_t part_stride, const Tensor& to) {
  launch(split_kernel, grid_of(from.numel(), kBlockThreads), Block(kBlockThreads), 0, stream(ctx.device()),
         from.data<float>(), from.numel(), from.dim(1), parts[0], parts[1], parts[2], row_stride, part_stride,
         to.data<bf16>());
}

// [E, columns] to [places(E), columns]: parts below each other.
Tensor split_below(const Context& ctx, const Tensor& from, const Parts& parts) {
  const std::int64_t used = kParts * from.dim(0);
  const Tensor to = ctx.workspace.tensor(DType::bf16, {places(from.dim(0)), from.dim(1)});
  const Tensor rest = to.slice(used, to.dim(0));
  if (rest.numel() > 0) device_fill(ctx.device(), rest.raw(), 0, rest.bytes());
  split(ctx, from, parts, from.dim(1), from.numel(), to);
  return to;
}

// [rows, E] to [rows, places(E)]: parts beside each other.
Tensor split_beside(const Context& ctx, const Tensor& from, const Parts& parts) {
  const Tensor to = ctx.workspace.tensor(DType::bf16, {from.dim(0), places(from.dim(1))});
  if (to.dim(1) > kParts * from.dim(1)) device_fill(ctx.device(), to.raw(), 0, to.bytes());
  split(ctx, from, parts, to.dim(1), from.dim(1), to);
  return to;
}

// out (= or +=) the sum of the parts, the smallest first. A thread per sum. Bound by bytes.
template <bool kAdd>
__global__ void sum_kernel(const float* parts, std::int64_t count, std::int64_t columns,
                           std::int64_t row_stride, std::int64_t part_stride, float* out) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  const float* place = parts + i / columns * row_stride + i % columns;
  const float sum = place[2 * part_stride] + place[part_stride] + place[0];
  out[i] = kAdd ? out[i] + sum : sum;
}

template <bool kAdd>
void sum_parts(const Context& ctx, const Tensor& parts, std::int64_t row_stride, std::int64_t part_stride,
               const Tensor& out) {
  launch(sum_kernel<kAdd>, grid_of(out.numel(), kBlockThreads), Block(kBlockThreads), 0, stream(ctx.device()),
         parts.data<float>(), out.numel(), out.dim(1), row_stride, part_stride, out.data<float>());
}

// A thread per number. Bound by bytes.
__global__ void split_rows_kernel(const f16* x, std::int64_t count, bf16* first, bf16* second) {
  const std::int64_t i = thread_index();
  if (i >= count) return;
  const float number = to_float(x[i]);
  round_to(number, first[i]);
  round_to(number - to_float(first[i]), second[i]);
}

// Of bf16, with x for their sum; x itself if that is bf16.
struct Rows {
  Tensor parts[2];
  int count = 1;

  Rows(const Context& ctx, const Tensor& x) : parts{x, {}} {
    if (x.dtype() == DType::bf16) return;
    for (Tensor& part : parts) part = ctx.workspace.tensor(DType::bf16, x.shape());
    count = 2;
    launch(split_rows_kernel, grid_of(x.numel(), kBlockThreads), Block(kBlockThreads), 0,
           stream(ctx.device()), x.data<f16>(), x.numel(), parts[0].data<bf16>(), parts[1].data<bf16>());
  }
};

// dx += d W. A thread keeps W of N columns and adds to them in kRowsOfThread rows, of which it asks for
// several at once. Bound by bytes.
constexpr int kFewExperts = 8;
constexpr int kRowsOfThread = 16;

template <int N, typename T>
__global__ void few_experts_kernel(const float* __restrict__ d, const float* __restrict__ w, int experts,
                                   std::int64_t rows, std::int64_t columns, T* __restrict__ dx) {
  constexpr int kAtOnce = 4;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (column >= columns) return;
  float weights[kFewExperts][N] = {};
#pragma unroll
  for (int e = 0; e < kFewExperts; ++e)
    if (e < experts) load(w + e * columns + column, weights[e]);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRowsOfThread;
  const int left = static_cast<int>(min(rows - first, static_cast<std::int64_t>(kRowsOfThread)));
  for (int i = 0; i < left; i += kAtOnce) {
    T* const to = dx + (first + i) * columns + column;
    Raw<T, N> before[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (i + k < left) before[k] = load_raw<N>(to + k * columns);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k >= left) break;
      const float* const gradients = d + (first + i + k) * experts;
      float sums[N];
      to_floats(before[k], sums);
#pragma unroll
      for (int e = 0; e < kFewExperts; ++e) {
        if (e >= experts) break;
#pragma unroll
        for (int n = 0; n < N; ++n) sums[n] += gradients[e] * weights[e][n];
      }
      store(sums, to + k * columns);
    }
  }
}

void add_of_few_experts(const Context& ctx, const Tensor& dlogits, const Tensor& w, const Tensor& dx) {
  const std::int64_t rows = dx.dim(0);
  const std::int64_t columns = dx.dim(1);
  if (dx.numel() == 0) return;
  with_half({dx.dtype()}, [&]<typename T>(T) {
    with_pack(packable(columns, {dx.raw(), w.raw()}), [&]<int N>() {
      constexpr int kThreads = kBlockThreads / 2;
      launch(few_experts_kernel<N, T>,
             Grid(grid_of(rows, kRowsOfThread).x, grid_of(columns, std::int64_t{N} * kThreads).x),
             Block(kThreads), 0, stream(ctx.device()), dlogits.data<float>(), w.data<float>(),
             static_cast<int>(w.dim(0)), rows, columns, dx.data<T>());
    });
  });
}

}  // namespace

void router_logits(const Context& ctx, const Tensor& x, const Tensor& w, const Tensor& logits) {
  check_device(ctx.device(), {x, w, logits});
  const std::int64_t experts = w.dim(0);
  const ArenaScope scope(ctx.workspace);
  const Tensor parts = ctx.workspace.tensor(DType::f32, {x.dim(0), places(experts)});
  const Tensor weights = split_below(ctx, w, kAll);
  const Rows rows(ctx, x);
  for (int i = 0; i < rows.count; ++i)
    gpu::gemm(ctx, rows.parts[i], weights, parts,
              {.a = Transpose::no, .b = Transpose::yes, .accumulate = i > 0});
  sum_parts<false>(ctx, parts, parts.dim(1), experts, logits);
}

void router_backward(const Context& ctx, const Tensor& dlogits, const Tensor& x, const Tensor& w,
                     const Tensor& dw, const Tensor& dx) {
  check_device(ctx.device(), {dlogits, x, w, dw, dx});
  {
    const ArenaScope scope(ctx.workspace);
    const Tensor parts = ctx.workspace.tensor(DType::f32, {places(w.dim(0)), w.dim(1)});
    const Tensor gradients = split_beside(ctx, dlogits, kAll);
    const Rows rows(ctx, x);
    for (int i = 0; i < rows.count; ++i)
      gpu::gemm(ctx, gradients, rows.parts[i], parts,
                {.a = Transpose::yes, .b = Transpose::no, .accumulate = i > 0});
    sum_parts<true>(ctx, parts, w.dim(1), w.numel(), dw);
  }
  if (w.dim(0) <= kFewExperts) return add_of_few_experts(ctx, dlogits, w, dx);
  const ArenaScope scope(ctx.workspace);
  const Tensor gradients = split_beside(ctx, dlogits, {0, 1, 0});
  const Tensor weights = split_below(ctx, w, {0, 0, 1});
  if (dx.dtype() == DType::bf16) return gpu::gemm_onto(ctx, gradients, weights, dx, {});
  const Tensor product = ctx.workspace.tensor(DType::f32, dx.shape());
  gpu::gemm(ctx, gradients, weights, product, {});
  gpu::add(ctx, dx, product, dx);
}

}  // namespace xmoe::gpu
