// Mean loss of a model over a part of the data, read from front to back.
#pragma once

#include <cstdint>
#include <optional>

#include "base/progress.h"
#include "comm/mesh.h"
#include "data/samples/evaluation_windows.h"
#include "model/transformer.h"

namespace xmoe {

struct ValidationResult {
  double loss_sum = 0.0;    // nats, over all predicted tokens
  std::int64_t tokens = 0;  // predicted
  std::int64_t bytes = 0;   // of text that they stand for; 0 if unknown

  double mean_loss() const;
  double perplexity() const;
  std::optional<double> bits_per_byte() const;
};

// The first `batches` batches of `micro` windows for every data-parallel worker; 0: all windows. No
// assignment is dropped, whatever the capacity in training: the result is the same on every rank and layout.
ValidationResult validate_model(Transformer& model, Mesh& mesh, const EvaluationWindows& windows,
                                std::int64_t micro, std::int64_t batches, Progress* progress);

}  // namespace xmoe
