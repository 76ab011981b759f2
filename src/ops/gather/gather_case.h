// Cases of the row movements. Letters: T tokens, B routed rows, k slots, H width.
#pragma once

#include "ops/gather/gather.h"
#include "support/op_case.h"

namespace xmoe {

// Some indices are negative: padding rows for gather, dropped assignments for combine.
inline OpCase gather_case(std::int64_t tokens, std::int64_t routed, std::int64_t width) {
  OpCase op;
  op.name = "gather_rows";
  op.inputs = {{.name = "x", .shape = {tokens, width}},
               {.name = "index", .shape = {routed}, .kind = ElementKind::i32, .fill = integers(-1, tokens)}};
  op.outputs = {{.name = "out", .shape = {routed, width}}};
  op.reference = [=](const Doubles& in, Doubles& out) {
    for (std::int64_t i = 0; i < routed; ++i) {
      const auto row = static_cast<std::int64_t>(in[1][static_cast<std::size_t>(i)]);
      if (row < 0) continue;
      for (std::int64_t h = 0; h < width; ++h)
        out[0][static_cast<std::size_t>(i * width + h)] = in[0][static_cast<std::size_t>(row * width + h)];
    }
  };
  op.forward = [](const Context& ctx, Tensors in, Tensors out) { gather_rows(ctx, in[0], in[1], out[0]); };
  const auto elements = static_cast<double>(routed * width);
  op.forward_bytes = [=](DType dtype) { return 2.0 * elements * static_cast<double>(size_of(dtype)); };
  return op;
}

inline OpCase combine_case(std::int64_t tokens, std::int64_t slots, std::int64_t routed, std::int64_t width) {
  OpCase op;
  op.name = "combine_rows";
  op.inputs = {
      {.name = "rows", .shape = {routed, width}},
      {.name = "index", .shape = {tokens, slots}, .kind = ElementKind::i32, .fill = integers(-1, routed)}};
  op.outputs = {{.name = "out", .shape = {tokens, width}}};
  op.terms = slots;
  op.reference = [=](const Doubles& in, Doubles& out) {
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t j = 0; j < slots; ++j) {
        const auto row = static_cast<std::int64_t>(in[1][static_cast<std::size_t>(t * slots + j)]);
        if (row < 0) continue;
        for (std::int64_t h = 0; h < width; ++h)
          out[0][static_cast<std::size_t>(t * width + h)] += in[0][static_cast<std::size_t>(row * width + h)];
      }
  };
  op.forward = [](const Context& ctx, Tensors in, Tensors out) { combine_rows(ctx, in[0], in[1], out[0]); };
  const auto elements = static_cast<double>(tokens * width) * static_cast<double>(slots + 1);
  op.forward_bytes = [=](DType dtype) { return elements * static_cast<double>(size_of(dtype)); };
  return op;
}

}  // namespace xmoe
