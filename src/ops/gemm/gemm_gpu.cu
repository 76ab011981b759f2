// Products by cuBLASLt, bound by FLOPs. The library counts matrices by columns: what it takes for X is our
// X^T, so C^T = op(B)^T op(A)^T is asked of it, with B first and nothing moved.
//
// Same product, same bits: the algorithm is the library's first proposal for the shape, strides and
// alignment, a function of these and of the GPU's model, and never one that was timed. Where it cuts the sum
// over K into parts, the parts stay f32 and are added in a fixed order by a second kernel.
#include "ops/gemm/gemm_gpu.h"

#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr std::size_t kMostWorkspace = kProductWorkspace - kProductAlignment;
// Vectors and bulk copies need no wider alignment.
constexpr std::uintptr_t kWidestAlignment = 16;
// Experts receive other numbers of rows at every step: when this many shapes are known (some 6 MB; one that
// is written and added to counts twice) all are forgotten, and choosing again costs each tens of
// microseconds.
constexpr std::size_t kMostPlans = 8192;
constexpr int kMostProposals = 8;  // a benchmark times each of them

// With the parts of a sum in C's dtype (output type, in place) 16-bit products would be rounded more than
// once.
constexpr std::uint32_t kSumsInF32 = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
constexpr std::uint32_t kAnySums = CUBLASLT_REDUCTION_SCHEME_MASK;

// What decides how a product is computed.
struct Product {
  std::int64_t m, n, k;
  std::int64_t lda, ldb, ldc;
  std::uint32_t align_a, align_b, align_c;  // bytes
  DType input, output;
  bool ta, tb, accumulate;

  auto key() const {
    return std::tie(m, n, k, lda, ldb, ldc, align_a, align_b, align_c, input, output, ta, tb, accumulate);
  }
  bool operator<(const Product& other) const { return key() < other.key(); }
};

struct Plan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace;  // bytes
};

struct Library {
  cublasLtHandle_t handle = nullptr;
  std::map<Product, Plan> plans;
};

std::string to_string(const Product& p) {
  return fmt::format("C [{}, {}] {}= {} {} over {} terms, {} to {}, strides {}, {} and {}", p.m, p.n,
                     p.accumulate ? "+" : "", p.ta ? "A^T" : "A", p.tb ? "B^T" : "B", p.k, name_of(p.input),
                     name_of(p.output), p.lda, p.ldb, p.ldc);
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuBLASLt failed {}: {} ({})", what, cublasLtGetStatusString(status), cublasLtGetStatusName(status));
}

void check(cublasStatus_t status, const char* what, const Product& product) {
  if (status != CUBLAS_STATUS_SUCCESS) check(status, fmt::format("{} {}", what, to_string(product)).c_str());
}

std::mutex& mutex() {
  static std::mutex m;
  return m;
}

// Of the device that the calling thread has chosen. Handles live as long as the process, like streams. To be
// called with the mutex held.
Library& library(const Device& device) {
  static std::map<int, Library> libraries;
  Library& l = libraries[device.index];
  if (l.handle == nullptr) check(cublasLtCreate(&l.handle), "starting");
  return l;
}

std::uint32_t alignment_of(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.raw());
  return static_cast<std::uint32_t>(std::min(kWidestAlignment, address & (~address + 1)));
}

Product product_of(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options) {
  const bool ta = options.a == Transpose::yes;
  return {.m = c.dim(0),
          .n = c.dim(1),
          .k = a.dim(ta ? 0 : 1),
          .lda = a.dim(1),
          .ldb = b.dim(1),
          .ldc = c.dim(1),
          .align_a = alignment_of(a),
          .align_b = alignment_of(b),
          .align_c = alignment_of(c),
          .input = a.dtype(),
          .output = c.dtype(),
          .ta = ta,
          .tb = options.b == Transpose::yes,
          .accumulate = options.accumulate};
}

cudaDataType_t library_type(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : dtype == DType::f16 ? CUDA_R_16F : CUDA_R_32F;
}

// A row-major matrix as the library sees it.
cublasLtMatrixLayoutOpaque_t layout(std::int64_t rows, std::int64_t columns, std::int64_t stride,
                                    DType dtype) {
  cublasLtMatrixLayoutOpaque_t made{};
  check(cublasLtMatrixLayoutInit(&made, library_type(dtype), static_cast<std::uint64_t>(columns),
                                 static_cast<std::uint64_t>(rows), stride),
        "describing a matrix");
  return made;
}

template <typename T>
void set(cublasLtMatmulDescOpaque_t& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value), "describing a product");
}

template <typename T>
void set(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value),
        "stating a preference");
}

// The library's proposals, the one that it takes for the fastest first.
std::vector<Plan> make_plans(const Library& library, const Product& p, std::uint32_t sums, int most) {
  Plan plan{};
  // Pedantic: f32 without TF32 or emulation by narrower types, whatever the environment says.
  const auto arithmetic = p.input == DType::f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
  check(cublasLtMatmulDescInit(&plan.operation, arithmetic, CUDA_R_32F), "describing a product");
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, p.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, p.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  plan.a = layout(p.ta ? p.k : p.m, p.ta ? p.m : p.k, p.lda, p.input);
  plan.b = layout(p.tb ? p.n : p.k, p.tb ? p.k : p.n, p.ldb, p.input);
  plan.c = layout(p.m, p.n, p.ldc, p.output);

  cublasLtMatmulPreferenceOpaque_t preference{};
  check(cublasLtMatmulPreferenceInit(&preference), "stating a preference");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, sums);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.align_b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.align_a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.align_c);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.align_c);

  // No vector: of unnamed types nvcc 13.0 cannot destroy one.
  cublasLtMatmulHeuristicResult_t proposals[kMostProposals] = {};
  int count = 0;
  check(cublasLtMatmulAlgoGetHeuristic(library.handle, &plan.operation, &plan.b, &plan.a, &plan.c, &plan.c,
                                       &preference, most, proposals, &count),
        "choosing an algorithm for", p);
  std::vector<Plan> plans;
  for (int i = 0; i < count; ++i) {
    const auto& proposal = proposals[i];
    if (proposal.state != CUBLAS_STATUS_SUCCESS) continue;
    plan.algorithm = proposal.algo;
    plan.workspace = proposal.workspaceSize;
    plans.push_back(plan);
  }
  if (plans.empty()) fail("cuBLASLt has no algorithm for {}", to_string(p));
  return plans;
}

// A copy of the plan, since the library takes no descriptions that are const.
void execute(const Context& ctx, Stream stream, cublasLtHandle_t handle, Plan plan, const Product& p,
             const Tensor& a, const Tensor& b, const Tensor& c) {
  const float one = 1.0F;
  const float kept = p.accumulate ? 1.0F : 0.0F;
  const ArenaScope scope(ctx.workspace);
  // The most, whatever the plan takes: experts' products have other shapes at every step, and the arena would
  // grow when one of them needs more than any before.
  std::size_t space = kProductWorkspace;
  void* workspace = ctx.workspace.allocate(space);
  std::align(kProductAlignment, kMostWorkspace, workspace, space);
  check(cublasLtMatmul(handle, &plan.operation, &one, b.raw(), &plan.b, a.raw(), &plan.a, &kept, c.raw(),
                       &plan.c, c.raw(), &plan.c, &plan.algorithm, workspace, plan.workspace, stream),
        "computing", p);
}

// C += product. Bound by bytes: one element per thread.
template <typename T>
__global__ void add_kernel(const float* product, std::int64_t count, T* c) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) round_to(to_float(c[i]) + product[i], c[i]);
}

// The library has algorithms that round the product to C's 16 bits before they add it to C.
void add_to_half(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c,
                 const GemmOptions& options) {
  const ArenaScope scope(ctx.workspace);
  const Tensor product = ctx.workspace.tensor(DType::f32, c.shape());
  gpu::gemm(ctx, a, b, product, {options.a, options.b});
  with_half({c.dtype()}, [&]<typename T>(T) {
    launch(add_kernel<T>, grid_of(c.numel(), kBlockThreads), Block(kBlockThreads), 0, stream(ctx.device()),
           product.data<float>(), c.numel(), c.data<T>());
  });
}

void multiply(const Context& ctx, const Product& p, const Tensor& a, const Tensor& b, const Tensor& c) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {  // the library knows no empty sums
    if (!p.accumulate) device_fill(ctx.device(), c.raw(), 0, c.bytes());
    return;
  }
  const Stream queue = stream(ctx.device());
  const std::lock_guard lock(mutex());
  Library& l = library(ctx.device());
  auto known = l.plans.find(p);
  if (known == l.plans.end()) {
    if (l.plans.size() >= kMostPlans) l.plans.clear();
    known = l.plans.emplace(p, make_plans(l, p, kSumsInF32, 1).front()).first;
  }
  execute(ctx, queue, l.handle, known->second, p, a, b, c);
}

}  // namespace

void gemm(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options) {
  const bool rounds_twice = options.accumulate && c.dtype() != DType::f32;
  if (rounds_twice && a.dim(options.a == Transpose::yes ? 0 : 1) > 0)
    return add_to_half(ctx, a, b, c, options);
  multiply(ctx, product_of(a, b, c, options), a, b, c);
}

void gemm_onto(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c, GemmOptions options) {
  XMOE_CHECK(a.dtype() == DType::bf16 && c.dtype() != DType::f16, "a product of {} cannot be added to {}",
             name_of(a.dtype()), name_of(c.dtype()));
  options.accumulate = true;
  multiply(ctx, product_of(a, b, c, options), a, b, c);
}

std::vector<std::function<void()>> gemm_proposals(const Context& ctx, const Tensor& a, const Tensor& b,
                                                  const Tensor& c, const GemmOptions& options) {
  const Product p = product_of(a, b, c, options);
  const Stream queue = stream(ctx.device());
  const std::lock_guard lock(mutex());
  Library& l = library(ctx.device());
  const cublasLtHandle_t handle = l.handle;
  std::vector<std::function<void()>> calls;
  for (const Plan& plan : make_plans(l, p, kAnySums, kMostProposals))
    calls.emplace_back(
        [&ctx, queue, handle, plan, p, a, b, c] { execute(ctx, queue, handle, plan, p, a, b, c); });
  return calls;
}

}  // namespace xmoe::gpu
