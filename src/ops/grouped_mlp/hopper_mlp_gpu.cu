#include "ops/grouped_mlp/hopper_mlp_gpu.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "device/gpu.h"
#include "ops/grouped_mlp/hopper_products_gpu.h"

namespace xmoe::gpu {

namespace hopper {

namespace {

struct Model {
  int capability;  // major
  int multiprocessors;
};

const Model& model(const Device& device) {
  static std::mutex mutex;
  static std::map<int, Model> models;
  const std::lock_guard lock(mutex);
  const auto known = models.find(device.index);
  if (known != models.end()) return known->second;
  Model made{};
  check(cudaDeviceGetAttribute(&made.capability, cudaDevAttrComputeCapabilityMajor, device.index),
        "asking for a property of the GPU");
  check(cudaDeviceGetAttribute(&made.multiprocessors, cudaDevAttrMultiProcessorCount, device.index),
        "asking for a property of the GPU");
  return models.emplace(device.index, made).first->second;
}

// The driver's function, by way of the runtime, so that nothing links to the driver's library.
decltype(&cuTensorMapEncodeTiled) encoder() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    constexpr unsigned kSince = 12000;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kSince, cudaEnableDefault,
                                           &result),
          "asking the driver for tensor maps");
    if (result != cudaDriverEntryPointSuccess)
      fail("the GPU's driver knows no tensor maps; it needs CUDA 12");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return function;
}

CUtensorMap tensor_map(const Tensor& tensor, int box_rows) {
  constexpr cuuint32_t kMostDims = 3;
  const auto rank = static_cast<cuuint32_t>(tensor.rank());
  cuuint64_t sizes[kMostDims];
  cuuint64_t strides[kMostDims - 1];  // bytes
  cuuint32_t box[kMostDims] = {kDepth, static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[kMostDims] = {1, 1, 1};
  cuuint64_t stride = size_of(tensor.dtype());
  for (cuuint32_t i = 0; i < rank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(tensor.dim(static_cast<int>(rank - 1 - i)));
    stride *= sizes[i];
    if (i + 1 < rank) strides[i] = stride;
  }
  CUtensorMap map;
  const CUresult status = encoder()(
      &map, tensor.dtype() == DType::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      rank, tensor.raw(), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  XMOE_CHECK(status == CUDA_SUCCESS, "the driver makes no tensor map of {}: error {}",
             to_string(tensor.shape()), static_cast<int>(status));
  return map;
}

}  // namespace

CUtensorMap matrix_map(const Tensor& matrix) { return tensor_map(matrix, kBlockRows); }
CUtensorMap weights_map(const Tensor& weights, int box_rows) { return tensor_map(weights, box_rows); }

PairRows pair_rows(const RowPair& pair, const Tensor& index) {
  const std::int64_t row_bytes = pair.local.dim(1) * static_cast<std::int64_t>(size_of(pair.local.dtype()));
  const std::int64_t local_rows = pair.local.dim(0);
  char* const remote = pair.remote.defined() ? static_cast<char*>(pair.remote.raw()) : nullptr;
  return {static_cast<char*>(pair.local.raw()),
          reinterpret_cast<char*>(reinterpret_cast<std::intptr_t>(remote) - local_rows * row_bytes),
          index.defined() ? index.data<std::int32_t>() : nullptr, static_cast<int>(local_rows),
          static_cast<int>(row_bytes)};
}

Experts experts_of(std::span<const std::int64_t> per_expert) {
  Experts experts{};
  for (const std::int64_t rows : per_expert) {
    experts.begin[experts.count + 1] = experts.begin[experts.count] + static_cast<int>(rows);
    ++experts.count;
  }
  return experts;
}

Grid persistent_grid(const Device& device, std::int64_t tiles) {
  return Grid(static_cast<unsigned>(std::min<std::int64_t>(tiles, model(device).multiprocessors)));
}

namespace {

// Of the tiles of several products, each launched once.
class TileCounters {
 public:
  TileCounters(const Context& ctx, int products) : taken_(ctx.workspace.tensor(DType::i32, {products})) {
    device_fill(ctx.device(), taken_.raw(), 0, taken_.bytes());
  }
  // `experts` with the next product's counter.
  const Experts& next(Experts& experts) {
    experts.taken = taken_.data<std::int32_t>() + used_++;
    return experts;
  }

 private:
  Tensor taken_;
  int used_ = 0;
};

// dweights[r] = the sum of its parts, in order. Bound by bytes: one row a thread.
__global__ void sum_parts_kernel(const float* parts, int count, std::int64_t rows, float* sums) {
  const std::int64_t r = thread_index();
  if (r >= rows) return;
  float sum = 0.0F;
  for (int i = 0; i < count; ++i) sum += parts[i * rows + r];
  sums[r] = sum;
}

}  // namespace

}  // namespace hopper

bool hopper_fits(const Device& device, const Tensor& w1, const Tensor& w2) {
  constexpr int kHopper = 9;
  return w1.dtype() != DType::f32 && w1.dim(0) <= hopper::kMostExperts && w2.dim(1) % hopper::kDepth == 0 &&
         w2.dim(2) % hopper::kDepth == 0 && aligned({w1.raw(), w2.raw()}) &&
         hopper::model(device).capability == kHopper;
}

void hopper_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
                        const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y) {
  using namespace hopper;
  const std::int64_t total = rows.total();
  if (total == 0) return;
  const ArenaScope scope(ctx.workspace);
  Experts experts = experts_of(rows.per_expert);
  TileCounters tiles(ctx, 2);
  const std::int64_t ffn = w2.dim(2);
  Tensor a;
  if (y.local.defined()) a = ctx.workspace.tensor(h.dtype(), {total, ffn});
  up_product(ctx, activation, tiles.next(experts), {x, rows.source}, w1, rows.weights, h, a);
  if (a.defined()) down_product(ctx, tiles.next(experts), a, w2, y, rows.destination);
}

void hopper_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& dy,
                         const RowPair& x, const Tensor& w1, const Tensor& w2, const Tensor& h,
                         const RowPair& dx, const Tensor& dweights, const Tensor& dw1, const Tensor& dw2,
                         Accumulation accumulation) {
  using namespace hopper;
  const std::int64_t total = rows.total();
  if (total == 0) return;
  const ArenaScope scope(ctx.workspace);
  Experts experts = experts_of(rows.per_expert);
  TileCounters tiles(ctx, 4);
  const std::int64_t hidden = w2.dim(1);
  const std::int64_t ffn = w2.dim(2);
  const Tensor dh = ctx.workspace.tensor(h.dtype(), h.shape());
  const Tensor a = ctx.workspace.tensor(h.dtype(), {total, ffn});
  const IndexedRows dy_rows{dy, rows.source};
  const std::int64_t parts = ceil_div(ffn, hopper::kColumns);
  Tensor partial_sums;
  if (dweights.defined()) partial_sums = ctx.workspace.tensor(DType::f32, {parts, total});
  activation_gradient_product(ctx, activation, tiles.next(experts), dy_rows, w2, rows.weights, h, dh, a,
                              partial_sums);
  if (dweights.defined())
    launch(sum_parts_kernel, grid_of(total, kBlockThreads), Block(kBlockThreads), 0, stream(ctx.device()),
           partial_sums.data<float>(), static_cast<int>(parts), total, dweights.data<float>());
  input_gradient_product(ctx, tiles.next(experts), dh, w1, dx, rows.destination);
  up_weights_product(ctx, tiles.next(experts), dh, {x, rows.source}, dw1, accumulation);
  down_weights_product(ctx, tiles.next(experts), dy_rows, a, dw2, accumulation);
}

}  // namespace xmoe::gpu
