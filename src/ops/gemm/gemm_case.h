// Cases of the dense product. Letters: C [M, N] = op(A) op(B), K terms.
#pragma once

#include "ops/gemm/gemm.h"
#include "support/op_case.h"

namespace xmoe {

struct GemmSize {
  std::int64_t m, n, k;
};

// C += when accumulating: what C holds before is the third input.
inline OpCase gemm_case(const GemmSize& s, const GemmOptions& options, ElementKind output) {
  const bool ta = options.a == Transpose::yes;
  const bool tb = options.b == Transpose::yes;
  OpCase op;
  op.name =
      fmt::format("gemm{}{}{}", ta ? ".ta" : "", tb ? ".tb" : "", options.accumulate ? ".accumulate" : "");
  op.inputs = {{.name = "a", .shape = ta ? Shape{s.k, s.m} : Shape{s.m, s.k}},
               {.name = "b", .shape = tb ? Shape{s.n, s.k} : Shape{s.k, s.n}},
               {.name = "before", .shape = {s.m, s.n}, .kind = output}};
  op.outputs = {{.name = "c", .shape = {s.m, s.n}, .kind = output}};
  op.terms = s.k;
  op.reference = [=](const Doubles& in, Doubles& out) {
    if (options.accumulate) out[0] = in[2];
    for (std::int64_t i = 0; i < s.m; ++i)
      for (std::int64_t p = 0; p < s.k; ++p) {
        const double a = in[0][static_cast<std::size_t>(ta ? p * s.m + i : i * s.k + p)];
        for (std::int64_t j = 0; j < s.n; ++j)
          out[0][static_cast<std::size_t>(i * s.n + j)] +=
              a * in[1][static_cast<std::size_t>(tb ? j * s.k + p : p * s.n + j)];
      }
  };
  op.forward = [=](const Context& ctx, Tensors in, Tensors out) {
    if (options.accumulate)
      device_copy(ctx.device(), in[2].raw(), ctx.device(), out[0].raw(), out[0].bytes());
    gemm(ctx, in[0], in[1], out[0], options);
  };
  op.forward_flops = 2.0 * static_cast<double>(s.m * s.n) * static_cast<double>(s.k);
  return op;
}

}  // namespace xmoe
