// Passages of one hop.
#pragma once

#include <memory>

#include "moe/dispatch/dispatcher.h"
#include "ops/gather/gather.h"

namespace xmoe {

struct DispatchPassage final : Passage {
  RowPair end() override {
    if (transfer) transfer->wait();
    return rows;
  }

  RowPair rows;
  std::unique_ptr<Transfer> transfer;
};

struct CombinePassage final : Passage {
  CombinePassage(const Context& context, const Tensor& results, const Tensor& combine_index,
                 const Tensor& output)
      : ctx(context), rows(results), index(combine_index), out(output) {}
  RowPair end() override {
    if (transfer) transfer->wait();
    combine_rows(ctx, rows, index, out);
    return {};
  }

  Context ctx;
  Tensor rows, index, out;
  std::unique_ptr<Transfer> transfer;
};

}  // namespace xmoe
