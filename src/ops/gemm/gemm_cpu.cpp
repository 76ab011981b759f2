// oneDNN. f32 goes through its BLAS-like call (f16 too, widened: the library has no products of it), bf16
// through one matmul primitive per (transposes, output, accumulate) with dimensions given at run time: row
// counts of experts change with every batch, and a primitive per shape would compile code at every step. On
// AVX-512 the run-time form reaches 0.87 to 0.99 of the compiled one (xmoe_bench gemm).
#include "ops/gemm/gemm_cpu.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "base/parallel.h"
#include "ops/gemm/gemm_tile.h"

namespace xmoe {

namespace {

// Rows and columns of a task. 240 rows amortise the packing of B, and keep the f32 staging that the library
// uses for bf16 results in the L2 cache; 1008 columns keep it small. Both are multiples of kGroup.
constexpr std::int64_t kTaskRows = 5 * kGroup;
constexpr std::int64_t kTaskColumns = 21 * kGroup;

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc matrix(std::int64_t rows, std::int64_t columns, std::int64_t ld, DType dtype,
                          bool transposed) {
  const dnnl::memory::dims strides = transposed ? dnnl::memory::dims{1, ld} : dnnl::memory::dims{ld, 1};
  return {{rows, columns}, dnnl_type(dtype), strides};
}

std::size_t variant(const GemmTile& t) {
  return (t.options.a == Transpose::yes ? 1U : 0U) | (t.options.b == Transpose::yes ? 2U : 0U) |
         (t.options.accumulate ? 4U : 0U) | (t.output == DType::bf16 ? 8U : 0U);
}

dnnl::matmul make_bf16_matmul(const GemmTile& t) {
  constexpr auto any = DNNL_RUNTIME_DIM_VAL;
  const dnnl::matmul::desc desc(matrix(any, any, any, DType::bf16, t.options.a == Transpose::yes),
                                matrix(any, any, any, DType::bf16, t.options.b == Transpose::yes),
                                matrix(any, any, any, t.output, false));
  dnnl::primitive_attr attr;
  if (t.options.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0F);
    attr.set_post_ops(ops);
  }
  return dnnl::matmul(dnnl::matmul::primitive_desc(desc, attr, engine()));
}

void bf16_tile(const GemmTile& t) {
  // Per thread: the library's scratch memory is then never shared.
  thread_local std::array<std::unique_ptr<dnnl::matmul>, 16> primitives;
  thread_local dnnl::stream stream(engine());
  auto& primitive = primitives[variant(t)];
  if (!primitive) primitive = std::make_unique<dnnl::matmul>(make_bf16_matmul(t));
  dnnl::memory a(matrix(t.m, t.k, t.lda, DType::bf16, t.options.a == Transpose::yes), engine(),
                 const_cast<void*>(t.a));
  dnnl::memory b(matrix(t.k, t.n, t.ldb, DType::bf16, t.options.b == Transpose::yes), engine(),
                 const_cast<void*>(t.b));
  dnnl::memory c(matrix(t.m, t.n, t.ldc, t.output, false), engine(), t.c);
  primitive->execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
}

void f32_tile(const GemmTile& t) {
  const auto status =
      dnnl_sgemm(t.options.a == Transpose::yes ? 'T' : 'N', t.options.b == Transpose::yes ? 'T' : 'N', t.m,
                 t.n, t.k, 1.0F, static_cast<const float*>(t.a), t.lda, static_cast<const float*>(t.b), t.ldb,
                 t.options.accumulate ? 1.0F : 0.0F, static_cast<float*>(t.c), t.ldc);
  XMOE_CHECK(status == dnnl_success, "oneDNN sgemm {}x{}x{} failed with status {}", t.m, t.n, t.k,
             static_cast<int>(status));
}

void clear(const GemmTile& t) {
  for (std::int64_t i = 0; i < t.m; ++i)
    std::memset(static_cast<std::byte*>(t.c) + static_cast<std::size_t>(i * t.ldc) * size_of(t.output), 0,
                static_cast<std::size_t>(t.n) * size_of(t.output));
}

}  // namespace

namespace {

template <typename T>
void multiply_widened(const GemmTile& t) {
  thread_local std::vector<float> a;
  thread_local std::vector<float> b;
  thread_local std::vector<float> c;
  const auto widen = [](std::vector<float>& to, const void* from, std::int64_t rows, std::int64_t columns,
                        std::int64_t ld) {
    to.resize(static_cast<std::size_t>(rows * columns));
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j)
        to[static_cast<std::size_t>(i * columns + j)] =
            static_cast<float>(static_cast<const T*>(from)[i * ld + j]);
  };
  const bool ta = t.options.a == Transpose::yes;
  const bool tb = t.options.b == Transpose::yes;
  widen(a, t.a, ta ? t.k : t.m, ta ? t.m : t.k, t.lda);
  widen(b, t.b, tb ? t.n : t.k, tb ? t.k : t.n, t.ldb);
  GemmTile f = t;
  f.a = a.data();
  f.lda = ta ? t.m : t.k;
  f.b = b.data();
  f.ldb = tb ? t.k : t.n;
  if (t.output != DType::f32) {
    if (t.options.accumulate) {
      widen(c, t.c, t.m, t.n, t.ldc);
    } else {
      c.resize(static_cast<std::size_t>(t.m * t.n));
    }
    f.c = c.data();
    f.ldc = t.n;
  }
  f32_tile(f);
  if (t.output != DType::f32) {
    for (std::int64_t i = 0; i < t.m; ++i)
      for (std::int64_t j = 0; j < t.n; ++j)
        static_cast<T*>(t.c)[i * t.ldc + j] = T(c[static_cast<std::size_t>(i * t.n + j)]);
  }
}

}  // namespace

void gemm_tile_widened(const GemmTile& t) {
  if (t.input == DType::f16)
    multiply_widened<f16>(t);
  else
    multiply_widened<bf16>(t);
}

bool cpu_has_bf16_gemm() {
  static const bool has = [] {
    GemmTile probe;
    probe.input = DType::bf16;
    try {
      make_bf16_matmul(probe);
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return has;
}

void gemm_tile(const GemmTile& t) {
  if (t.m == 0 || t.n == 0) return;
  if (t.k == 0) {
    if (!t.options.accumulate) clear(t);
    return;
  }
  if (t.input == DType::f32) {
    f32_tile(t);
  } else if (t.input == DType::bf16 && cpu_has_bf16_gemm()) {
    bf16_tile(t);
  } else {
    gemm_tile_widened(t);
  }
}

void gemm_tiles(const GemmTile& whole, std::int64_t rows, std::int64_t columns) {
  const bool ta = whole.options.a == Transpose::yes;
  const bool tb = whole.options.b == Transpose::yes;
  const std::int64_t row_tasks = (whole.m + rows - 1) / rows;
  const std::int64_t column_tasks = (whole.n + columns - 1) / columns;
  parallel_tasks(row_tasks * column_tasks, [&](std::int64_t task, int) {
    const std::int64_t i = task % row_tasks * rows;
    const std::int64_t j = task / row_tasks * columns;
    GemmTile t = whole;
    t.m = std::min(rows, whole.m - i);
    t.n = std::min(columns, whole.n - j);
    t.a = static_cast<const std::byte*>(whole.a) +
          static_cast<std::size_t>(ta ? i : i * whole.lda) * size_of(whole.input);
    t.b = static_cast<const std::byte*>(whole.b) +
          static_cast<std::size_t>(tb ? j * whole.ldb : j) * size_of(whole.input);
    t.c = static_cast<std::byte*>(whole.c) +
          static_cast<std::size_t>(i * whole.ldc + j) * size_of(whole.output);
    gemm_tile(t);
  });
}

namespace cpu {

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& options) {
  const bool ta = options.a == Transpose::yes;
  GemmTile whole;
  whole.m = c.dim(0);
  whole.n = c.dim(1);
  whole.k = a.dim(ta ? 0 : 1);
  whole.a = a.raw();
  whole.lda = a.dim(1);
  whole.b = b.raw();
  whole.ldb = b.dim(1);
  whole.c = c.raw();
  whole.ldc = c.dim(1);
  whole.input = a.dtype();
  whole.output = c.dtype();
  whole.options = options;
  // Small products get smaller tasks, so that every thread has one: fewer rows, then fewer columns.
  const auto share = [](std::int64_t of, std::int64_t sharers, std::int64_t most) {
    return group_boundary(std::max<std::int64_t>(1, (of + sharers - 1) / sharers), most);
  };
  const std::int64_t rows = share(whole.m, thread_count(), kTaskRows);
  const std::int64_t row_tasks = std::max<std::int64_t>(1, (whole.m + rows - 1) / rows);
  const std::int64_t columns = share(whole.n, (thread_count() + row_tasks - 1) / row_tasks, kTaskColumns);
  gemm_tiles(whole, rows, columns);
}

}  // namespace cpu

}  // namespace xmoe
