// The samples of a training, cut over the data-parallel workers. Sample numbers count from the beginning of
// training; which samples a global batch consists of depends on neither their number nor the micro-batch
// size.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/samples/evaluation_windows.h"
#include "data/samples/sample_stream.h"
#include "device/tensor.h"
#include "train/config.h"

namespace xmoe {

DataBlend open_data(const std::vector<DataSource>& sources);

// Changes when the files of the blend, their order or their weights change (sizes and ends of the files are
// read, not all of them).
std::string data_fingerprint(const DataBlend& blend);

class TrainingData {
 public:
  // Of `workers` that read samples of their own, number `worker`: rank and size of Mesh::dp(). The ranks of a
  // tp group read the same.
  TrainingData(const TrainConfig& config, int worker, int workers);

  // This worker's part of micro-batch `index` of the global batch that begins at sample `first`: of the
  // samples of a micro-batch over all workers, consecutive runs go to consecutive ones.
  void read(std::int64_t first, std::int64_t index,
            const Tensor& tokens,          // [micro * S] i32
            const Tensor& targets) const;  // [micro * S] i32
  const std::string& fingerprint() const { return fingerprint_; }
  const DataBlend& blend() const { return blend_; }
  std::int64_t tokens_per_epoch() const { return stream_.tokens_per_epoch(); }

 private:
  std::int64_t micro_, seq_length_;
  int worker_, workers_;
  DataBlend blend_;
  SampleStream stream_;
  std::string fingerprint_;
};

}  // namespace xmoe
