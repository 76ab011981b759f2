#include "bench/support/gemm_bound.h"

#include <algorithm>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>

#include "bench/support/bench.h"

namespace xmoe {

namespace {

using dnnl::memory;

memory::data_type type(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc matrix(std::int64_t rows, std::int64_t columns, DType dtype, Transpose transpose) {
  return {{rows, columns},
          type(dtype),
          transpose == Transpose::yes ? memory::format_tag::ba : memory::format_tag::ab};
}

memory zeros(const memory::desc& desc, const dnnl::engine& engine) {
  memory m(desc, engine);
  std::fill_n(static_cast<char*>(m.get_data_handle()), desc.get_size(), '\0');
  return m;
}

// 0 where the library has no such product.
double measure(const memory::desc& a, const memory::desc& b, const memory::desc& c, bool accumulate,
               double flops) {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  try {
    dnnl::primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops ops;
      ops.append_sum(1.0F);
      attributes.set_post_ops(ops);
    }
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a, b, c), attributes, engine);
    dnnl::matmul product(desc);
    dnnl::stream stream(engine);
    const std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, zeros(desc.src_desc(), engine)},
                                                       {DNNL_ARG_WEIGHTS, zeros(desc.weights_desc(), engine)},
                                                       {DNNL_ARG_DST, zeros(desc.dst_desc(), engine)}};
    const double seconds = Bench::seconds([&] {
      product.execute(stream, arguments);
      stream.wait();
    });
    return flops / seconds * 1e-9;
  } catch (const dnnl::error&) {
    return 0.0;
  }
}

}  // namespace

double gemm_bound(std::int64_t m, std::int64_t n, std::int64_t k, DType input, DType output,
                  const GemmOptions& options) {
  if (m == 0 || n == 0 || k == 0) return 0.0;
  static std::map<
      std::tuple<std::int64_t, std::int64_t, std::int64_t, DType, DType, Transpose, Transpose, bool>, double>
      known;
  auto [entry, is_new] =
      known.try_emplace({m, n, k, input, output, options.a, options.b, options.accumulate}, 0.0);
  if (!is_new) return entry->second;
  const double flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k);
  const memory::desc a = matrix(m, k, input, options.a);
  const memory::desc c = matrix(m, n, output, Transpose::no);
  entry->second = measure(a, matrix(k, n, input, options.b), c, options.accumulate, flops);
  return entry->second;
}

}  // namespace xmoe
