// The case of the router's product. Letters: T tokens, H width, E experts.
#pragma once

#include <algorithm>

#include "ops/router/router.h"
#include "support/op_case.h"

namespace xmoe {

inline OpCase router_case(std::int64_t tokens, std::int64_t width, std::int64_t experts) {
  OpCase op;
  op.name = "router";
  op.inputs = {{.name = "x", .shape = {tokens, width}, .gradient_added = true, .rounds_addend = true},
               {.name = "w",
                .shape = {experts, width},
                .kind = ElementKind::f32,
                .gradient = ElementKind::f32,
                .gradient_added = true}};
  op.outputs = {{.name = "logits", .shape = {tokens, experts}, .kind = ElementKind::f32}};
  op.terms = width;
  op.backward_terms = std::max(tokens, experts);
  op.reference = [=](const Doubles& in, Doubles& out) {
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t e = 0; e < experts; ++e)
        for (std::int64_t h = 0; h < width; ++h)
          out[0][static_cast<std::size_t>(t * experts + e)] +=
              in[0][static_cast<std::size_t>(t * width + h)] * in[1][static_cast<std::size_t>(e * width + h)];
  };
  op.forward = [](const Context& ctx, Tensors in, Tensors out) { router_logits(ctx, in[0], in[1], out[0]); };
  op.backward = [](const Context& ctx, Tensors in, Tensors, Tensors d_out, Tensors d_in) {
    router_backward(ctx, d_out[0], in[0], in[1], d_in[1], d_in[0]);
  };
  const double flops = 2.0 * static_cast<double>(tokens * width * experts);
  op.forward_flops = flops;
  op.backward_flops = 2.0 * flops;
  return op;
}

}  // namespace xmoe
