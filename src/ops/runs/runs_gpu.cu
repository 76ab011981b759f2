#include "ops/runs/runs_gpu.h"

#include <vector>

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr unsigned kBlocksOfRun = 4;  // so that one run that has nearly everything is not left to one block

// Bound by the latency of the launch: runs are some hundreds to thousands of numbers. Grid: runs,
// kBlocksOfRun.
__global__ void fill_kernel(const Run* runs, const std::int64_t* first, std::int32_t* out) {
  const Run run = runs[blockIdx.x];
  std::int32_t* to = out + first[blockIdx.x];
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; i < run.count;
       i += static_cast<std::int64_t>(gridDim.y) * blockDim.x)
    to[i] = static_cast<std::int32_t>(run.begin + i);
}

}  // namespace

void fill_runs(const Context& ctx, std::span<const Run> runs, const Tensor& out) {
  if (out.numel() == 0) return;
  std::vector<std::int64_t> first;
  std::int64_t next = 0;
  for (const Run& run : runs) {
    first.push_back(next);
    next += run.count;
  }
  const ArenaScope scope(ctx.workspace);
  const auto upload = [&]<typename T>(const T* from) {
    const std::size_t bytes = runs.size() * sizeof(T);
    auto* to = static_cast<T*>(ctx.workspace.allocate(bytes));
    device_copy({}, from, ctx.device(), to, bytes);
    return static_cast<const T*>(to);
  };
  const Run* on_device = upload(runs.data());
  const std::int64_t* first_on_device = upload(first.data());
  launch(fill_kernel, Grid(static_cast<unsigned>(runs.size()), kBlocksOfRun), Block(kBlockThreads), 0,
         stream(ctx.device()), on_device, first_on_device, out.data<std::int32_t>());
}

}  // namespace xmoe::gpu
