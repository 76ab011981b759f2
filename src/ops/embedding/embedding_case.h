// Cases of the table lookup. Letters: T tokens, V vocabulary, H width.
#pragma once

#include "ops/embedding/embedding.h"
#include "support/op_case.h"

namespace xmoe {

// `first_id`: the least id among the tokens; a negative one: some rows lie elsewhere.
inline OpCase embedding_case(std::int64_t tokens, std::int64_t vocabulary, std::int64_t width,
                             std::int64_t first_id = 0) {
  OpCase op;
  op.name = "embedding";
  op.inputs = {
      {.name = "ids", .shape = {tokens}, .kind = ElementKind::i32, .fill = integers(first_id, vocabulary)},
      {.name = "table", .shape = {vocabulary, width}, .gradient = ElementKind::f32, .gradient_added = true}};
  op.outputs = {{.name = "out", .shape = {tokens, width}}};
  op.backward_terms = tokens;
  op.reference = [=](const Doubles& in, Doubles& out) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (in[0][static_cast<std::size_t>(t)] < 0.0) continue;  // zeros
      for (std::int64_t h = 0; h < width; ++h)
        out[0][static_cast<std::size_t>(t * width + h)] =
            in[1][static_cast<std::size_t>(in[0][static_cast<std::size_t>(t)]) *
                      static_cast<std::size_t>(width) +
                  static_cast<std::size_t>(h)];
    }
  };
  op.forward = [](const Context& ctx, Tensors in, Tensors out) {
    embedding_forward(ctx, in[0], in[1], out[0]);
  };
  op.backward = [](const Context& ctx, Tensors in, Tensors, Tensors d_out, Tensors d_in) {
    embedding_backward(ctx, in[0], d_out[0], d_in[1]);
  };
  // Rows of tokens, read and written; in backward the table's rows are read and written in f32.
  const auto elements = static_cast<double>(tokens * width);
  op.forward_bytes = [=](DType dtype) { return 2.0 * elements * static_cast<double>(size_of(dtype)); };
  op.backward_bytes = [=](DType dtype) { return elements * (8.0 + static_cast<double>(size_of(dtype))); };
  return op;
}

}  // namespace xmoe
