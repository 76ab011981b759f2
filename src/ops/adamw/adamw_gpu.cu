// Bound by bytes: 16 read and 12 written per parameter, 14 with a bf16 value. A thread takes 4 elements in a
// row, 16 bytes of each f32 array, or one where memory is not aligned for that. No shared memory.
#include "ops/adamw/adamw_gpu.h"

#include "device/gpu.h"
#include "ops/adamw/adamw_factors.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr int kElements = 4;

template <int N, typename T>
__device__ void update(const AdamWFactors& f, const float* grad, float* master, float* m, float* v, T* value,
                       std::int64_t at) {
  float g[N];
  float w[N];
  float first[N];
  float second[N];
  load<N>(grad + at, g);
  load<N>(master + at, w);
  load<N>(m + at, first);
  load<N>(v + at, second);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float scaled = f.grad_scale * g[i];
    first[i] = f.beta1 * first[i] + f.one_minus_beta1 * scaled;
    second[i] = f.beta2 * second[i] + f.one_minus_beta2 * (scaled * scaled);
    const float direction = first[i] * f.m_correction / (sqrtf(second[i] * f.v_correction) + f.epsilon);
    w[i] = w[i] - f.learning_rate * (direction + f.weight_decay * w[i]);
  }
  store<N>(first, m + at);
  store<N>(second, v + at);
  store<N>(w, master + at);
  if constexpr (!std::is_same_v<T, float>) store<N>(w, value + at);
}

template <int N, typename T>
__global__ void adamw_kernel(AdamWFactors f, const float* grad, float* master, float* m, float* v, T* value,
                             std::int64_t count) {
  const std::int64_t thread = thread_index();
  const std::int64_t packs = count / N;
  if (thread < packs) update<N>(f, grad, master, m, v, value, thread * N);
  if (thread < count - packs * N) update<1>(f, grad, master, m, v, value, packs * N + thread);
}

}  // namespace

void adamw(const Context& ctx, const AdamWOptions& options, const Tensor& grad, const Tensor& master,
           const Tensor& m, const Tensor& v, const Tensor& value) {
  check_device(ctx.device(), {grad, master, m, v, value});
  const std::int64_t count = grad.numel();
  if (count == 0) return;
  const AdamWFactors f = adamw_factors(options);
  const auto run = [&]<int N, typename T>() {
    launch(adamw_kernel<N, T>, grid_of(ceil_div(count, N) + N, kBlockThreads), Block(kBlockThreads), 0,
           stream(ctx.device()), f, grad.data<float>(), master.data<float>(), m.data<float>(),
           v.data<float>(), value.data<T>(), count);
  };
  with_float(value.dtype(), [&]<typename T>(T) {
    if (aligned({grad.raw(), master.raw(), m.raw(), v.raw(), value.raw()}))
      run.template operator()<kElements, T>();
    else
      run.template operator()<1, T>();
  });
}

}  // namespace xmoe::gpu
