// The samples of a training, cut over ranks. Sample numbers count from the beginning of training; which
// samples a global batch consists of depends on neither the number of ranks nor the micro-batch size.
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
  TrainingData(const TrainConfig& config, int rank, int world_size);

  // This rank's part of micro-batch `index` of the global batch that begins at sample `first`: of the samples
  // of a micro-batch over all ranks, consecutive runs go to consecutive ranks.
  void read(std::int64_t first, std::int64_t index,
            const Tensor& tokens,          // [micro * S] i32
            const Tensor& targets) const;  // [micro * S] i32
  const std::string& fingerprint() const { return fingerprint_; }
  const DataBlend& blend() const { return blend_; }
  std::int64_t tokens_per_epoch() const { return stream_.tokens_per_epoch(); }

 private:
  std::int64_t micro_, seq_length_;
  int rank_, world_size_;
  DataBlend blend_;
  SampleStream stream_;
  std::string fingerprint_;
};

}  // namespace xmoe
