// The portable path, for every GPU and dtype: rows are gathered into the workspace, each expert's products
// are the vendor's, kernels bound by bytes stand between them. What lies between is kept in whole: R rows of
// the hidden size and two of the inner one.
#include "ops/grouped_mlp/grouped_mlp_gpu.h"

#include "device/gpu.h"
#include "ops/gemm/gemm_gpu.h"
#include "ops/gpu_rows.h"
#include "ops/grouped_mlp/activation_gpu.h"
#include "ops/grouped_mlp/hopper_mlp_gpu.h"

namespace xmoe::gpu {

namespace {

// Both matrices of a pair, and where the first ends.
template <typename Piece>
struct PairView {
  Piece* local;
  Piece* remote;
  std::int64_t local_rows;
  std::int64_t columns;  // pieces

  __device__ Piece* row(std::int64_t i) const {
    return i < local_rows ? local + i * columns : remote + (i - local_rows) * columns;
  }
};

// A block is row_block, one row per row of it.
template <bool kGather, typename Piece>
__global__ void move_kernel(PairView<Piece> pair, const std::int32_t* index, Piece* rows,
                            std::int64_t count) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= count) return;
  Piece* in_pair = pair.row(index[r]);
  Piece* in_order = rows + r * pair.columns;
  for (std::int64_t c = threadIdx.x; c < pair.columns; c += blockDim.x) {
    if constexpr (kGather)
      in_order[c] = in_pair[c];
    else
      in_pair[c] = in_order[c];
  }
}

template <bool kGather>
void move(const Context& ctx, const RowPair& pair, const Tensor& index, const Tensor& rows) {
  const auto run = [&]<typename Piece>(Piece) {
    const std::int64_t columns = rows.dim(1) * static_cast<std::int64_t>(size_of(rows.dtype())) /
                                 static_cast<std::int64_t>(sizeof(Piece));
    const Block block = row_block(columns);
    launch(move_kernel<kGather, Piece>, grid_of(rows.dim(0), block.y), block, 0, stream(ctx.device()),
           PairView<Piece>{static_cast<Piece*>(pair.local.raw()), static_cast<Piece*>(pair.remote.raw()),
                           pair.local.dim(0), columns},
           index.data<std::int32_t>(), static_cast<Piece*>(rows.raw()), rows.dim(0));
  };
  const std::size_t row_bytes = static_cast<std::size_t>(rows.dim(1)) * size_of(rows.dtype());
  if (row_bytes % kAccessBytes == 0 && aligned({pair.local.raw(), pair.remote.raw(), rows.raw()}))
    run(uint4{});
  else if (size_of(rows.dtype()) == sizeof(float))
    run(std::uint32_t{});
  else
    run(std::uint16_t{});
}

// The rows of the experts in their order: as they lie, or gathered into the workspace.
Tensor gathered(const Context& ctx, const RowPair& pair, const Tensor& index, std::int64_t count) {
  if (!index.defined()) return pair.local;
  const Tensor rows = ctx.workspace.tensor(pair.local.dtype(), {count, pair.local.dim(1)});
  move<true>(ctx, pair, index, rows);
  return rows;
}

// a = weight * act(h). A block takes blockDim.y rows, N elements a thread at a time.
template <Activation kActivation, int N, typename T>
__global__ void activate_kernel(const T* h, const float* weights, T* a, std::int64_t rows, std::int64_t ffn) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  const float weight = weights == nullptr ? 1.0F : weights[r];
  const std::int64_t width = kActivation == Activation::swiglu ? 2 * ffn : ffn;
  for (std::int64_t i = threadIdx.x * N; i < ffn; i += blockDim.x * N) {
    float values[N];
    load<N>(h + r * width + i, values);
    if constexpr (kActivation == Activation::swiglu) {
      float up[N];
      load<N>(h + r * width + ffn + i, up);
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] = weight * Swiglu::value(values[j], up[j]);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] = weight * Gelu::value(values[j]);
    }
    store<N>(values, a + r * ffn + i);
  }
}

// Given da: a = weight * act(h), dh = weight * da * act'(h), dweight = <da, act(h)>. One block per row.
template <Activation kActivation, int N, typename T>
__global__ void activate_backward_kernel(const T* h, const float* da, const float* weights, T* a, T* dh,
                                         float* dweights, std::int64_t ffn) {
  const std::int64_t r = blockIdx.x;
  const float weight = weights == nullptr ? 1.0F : weights[r];
  const std::int64_t width = kActivation == Activation::swiglu ? 2 * ffn : ffn;
  float sums[1] = {};
  for (std::int64_t i = threadIdx.x * N; i < ffn; i += blockDim.x * N) {
    float gate[N];
    float d[N];
    float values[N];
    float d_gate[N];
    load<N>(h + r * width + i, gate);
    load<N>(da + r * ffn + i, d);
    if constexpr (kActivation == Activation::swiglu) {
      float up[N];
      float d_up[N];
      load<N>(h + r * width + ffn + i, up);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        Swiglu::backward(gate[j], up[j], values[j], d_gate[j], d_up[j]);
        d_up[j] *= weight * d[j];
      }
      store<N>(d_up, dh + r * width + ffn + i);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) Gelu::backward(gate[j], values[j], d_gate[j]);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      sums[0] += d[j] * values[j];
      values[j] *= weight;
      d_gate[j] *= weight * d[j];
    }
    store<N>(values, a + r * ffn + i);
    store<N>(d_gate, dh + r * width + i);
  }
  if (dweights == nullptr) return;
  __shared__ float partials[kBlockThreads / kWarpSize];
  block_sums(sums, partials);
  if (threadIdx.x == 0) dweights[r] = sums[0];
}

template <typename F>
void with_activation(Activation activation, F&& f) {
  if (activation == Activation::swiglu)
    f.template operator()<Activation::swiglu>();
  else
    f.template operator()<Activation::gelu>();
}

const float* floats(const Tensor& tensor) { return tensor.defined() ? tensor.data<float>() : nullptr; }

void activate(const Context& ctx, Activation activation, const Tensor& h, const Tensor& weights,
              const Tensor& a) {
  const std::int64_t ffn = a.dim(1);
  with_float(h.dtype(), [&]<typename T>(T) {
    with_activation(activation, [&]<Activation kActivation>() {
      with_pack(packable(ffn, {h.raw(), a.raw()}), [&]<int N>() {
        const Block block = row_block(ceil_div(ffn, N));
        launch(activate_kernel<kActivation, N, T>, grid_of(a.dim(0), block.y), block, 0, stream(ctx.device()),
               h.data<T>(), floats(weights), a.data<T>(), a.dim(0), ffn);
      });
    });
  });
}

void activate_backward(const Context& ctx, Activation activation, const Tensor& h, const Tensor& da,
                       const Tensor& weights, const Tensor& a, const Tensor& dh, const Tensor& dweights) {
  const std::int64_t ffn = a.dim(1);
  with_float(h.dtype(), [&]<typename T>(T) {
    with_activation(activation, [&]<Activation kActivation>() {
      with_pack(packable(ffn, {h.raw(), da.raw(), a.raw(), dh.raw()}), [&]<int N>() {
        launch(activate_backward_kernel<kActivation, N, T>, grid_of(a.dim(0), 1), Block(kBlockThreads), 0,
               stream(ctx.device()), h.data<T>(), da.data<float>(), floats(weights), a.data<T>(),
               dh.data<T>(), dweights.defined() ? dweights.data<float>() : nullptr, ffn);
      });
    });
  });
}

// Calls f(expert, first row, end) for every expert that has rows.
template <typename F>
void for_each_expert(const ExpertRows& rows, F&& f) {
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < rows.per_expert.size(); ++e) {
    const std::int64_t end = begin + rows.per_expert[e];
    if (begin < end) f(static_cast<std::int64_t>(e), begin, end);
    begin = end;
  }
}

void check_devices(const Context& ctx, const ExpertRows& rows, std::initializer_list<RowPair> pairs,
                   std::initializer_list<Tensor> tensors) {
  check_device(ctx.device(), {rows.source, rows.destination, rows.weights});
  for (const RowPair& pair : pairs) check_device(ctx.device(), {pair.local, pair.remote});
  check_device(ctx.device(), tensors);
}

}  // namespace

void grouped_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
                         const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y) {
  check_devices(ctx, rows, {x, y}, {w1, w2, h});
  const std::int64_t total = rows.total();
  if (total == 0) return;
  if (hopper_fits(ctx.device(), w1, w2)) return hopper_mlp_forward(ctx, activation, rows, x, w1, w2, h, y);
  const ArenaScope scope(ctx.workspace);
  const Tensor input = gathered(ctx, x, rows.source, total);
  for_each_expert(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t end) {
    gpu::gemm(ctx, input.slice(begin, end), w1[e], h.slice(begin, end), kTimesTransposed);
  });
  if (!y.local.defined()) return;
  const Tensor a = ctx.workspace.tensor(h.dtype(), {total, w2.dim(2)});
  activate(ctx, activation, h, rows.weights, a);
  const bool in_order = !rows.destination.defined();
  const Tensor output = in_order ? y.local : ctx.workspace.tensor(h.dtype(), {total, w1.dim(2)});
  for_each_expert(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t end) {
    gpu::gemm(ctx, a.slice(begin, end), w2[e], output.slice(begin, end), kTimesTransposed);
  });
  if (!in_order) move<false>(ctx, y, rows.destination, output);
}

void grouped_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows,
                          const RowPair& dy, const RowPair& x, const Tensor& w1, const Tensor& w2,
                          const Tensor& h, const RowPair& dx, const Tensor& dweights, const Tensor& dw1,
                          const Tensor& dw2, Accumulation accumulation) {
  check_devices(ctx, rows, {dy, x, dx}, {w1, w2, h, dweights, dw1, dw2});
  const std::int64_t total = rows.total();
  if (total == 0) return;
  if (hopper_fits(ctx.device(), w1, w2))
    return hopper_mlp_backward(ctx, activation, rows, dy, x, w1, w2, h, dx, dweights, dw1, dw2, accumulation);
  const std::int64_t ffn = w2.dim(2);
  const GemmOptions into_dw{
      .a = Transpose::yes, .b = Transpose::no, .accumulate = accumulation == Accumulation::add};
  const ArenaScope scope(ctx.workspace);
  const Tensor a = ctx.workspace.tensor(h.dtype(), {total, ffn});
  const Tensor dh = ctx.workspace.tensor(h.dtype(), h.shape());
  {
    const ArenaScope products(ctx.workspace);
    const Tensor upstream = gathered(ctx, dy, rows.source, total);
    const Tensor da = ctx.workspace.tensor(DType::f32, {total, ffn});
    for_each_expert(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t end) {
      gpu::gemm(ctx, upstream.slice(begin, end), w2[e], da.slice(begin, end), {});
    });
    activate_backward(ctx, activation, h, da, rows.weights, a, dh, dweights);
    for_each_expert(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t end) {
      gpu::gemm(ctx, upstream.slice(begin, end), a.slice(begin, end), dw2[e], into_dw);
    });
  }
  {
    const ArenaScope products(ctx.workspace);
    const Tensor input = gathered(ctx, x, rows.source, total);
    for_each_expert(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t end) {
      gpu::gemm(ctx, dh.slice(begin, end), input.slice(begin, end), dw1[e], into_dw);
    });
  }
  const bool in_order = !rows.destination.defined();
  const Tensor output = in_order ? dx.local : ctx.workspace.tensor(h.dtype(), {total, w1.dim(2)});
  for_each_expert(rows, [&](std::int64_t e, std::int64_t begin, std::int64_t end) {
    gpu::gemm(ctx, dh.slice(begin, end), w1[e], output.slice(begin, end), {});
  });
  if (!in_order) move<false>(ctx, dx, rows.destination, output);
}

}  // namespace xmoe::gpu
