// Training samples: an endless sequence in which sample i is a function of (data, seed, i) alone, whoever
// asks for it and whatever was asked before.
//
// One data set: in every epoch its documents are shuffled and laid end to end; the epochs follow each other
// as one stream of tokens. Sample positions j cover the tokens [j * S, j * S + S] of it (S = seq_length), so
// that each token is predicted once per epoch. Those that begin in an epoch are visited in shuffled order.
// Several data sets are blended by their weights.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "data/samples/data_blend.h"

namespace xmoe {

struct SampleOptions {
  std::int64_t seq_length = 0;
  std::uint64_t seed = 0;
  // If not 0, token ids are checked against it as they are read.
  std::int64_t vocab_size = 0;
};

// Samples of one data set. Memory: the documents and samples of the epochs in use (a few at a time).
class DatasetSamples {
 public:
  // `stream` tells data sets of a blend apart.
  DatasetSamples(std::shared_ptr<const IndexedDataset> dataset, DocumentRange range,
                 const SampleOptions& options, std::uint64_t stream);

  std::int64_t tokens_per_epoch() const { return tokens_; }
  // tokens [seq_length + 1]; by any thread.
  void read(std::int64_t index, std::span<std::int32_t> tokens) const;

 private:
  struct Epoch;

  std::int64_t first_sample(std::int64_t epoch) const;
  std::shared_ptr<const Epoch> epoch(std::int64_t number) const;
  std::shared_ptr<const Epoch> make_epoch(std::int64_t number) const;
  void read_document(std::int64_t document, std::int64_t offset, std::span<std::int32_t> out) const;

  std::shared_ptr<const IndexedDataset> dataset_;
  DocumentRange range_;
  SampleOptions options_;
  std::uint64_t stream_;
  std::int64_t tokens_ = 0;
  mutable std::mutex mutex_;
  mutable std::list<std::shared_ptr<const Epoch>> epochs_;  // the latest used first
};

// Chooses the data set of each sample: the one that is furthest behind its share, so that after n samples
// each has been chosen within one sample of weight * n; of equals the first.
class BlendOrder {
 public:
  struct Choice {
    std::size_t dataset = 0;
    std::int64_t index = 0;  // how many of its samples came before
  };

  explicit BlendOrder(std::vector<double> weights);  // normalised here
  Choice at(std::int64_t sample) const;              // by any thread

 private:
  struct Block {
    std::int64_t number = -1;
    std::vector<Choice> choices;
  };

  void extend_to(std::int64_t block) const;
  std::size_t choose(std::int64_t sample, std::span<const std::int64_t> counts) const;

  std::vector<double> weights_;
  mutable std::mutex mutex_;
  mutable std::vector<std::int64_t> starts_;  // [blocks, datasets]: samples of each data set before the block
  mutable Block block_;                       // the one used last
};

class SampleStream {
 public:
  // Fails if the split of a data set holds no tokens.
  SampleStream(const DataBlend& blend, const SplitWeights& weights, Split split,
               const SampleOptions& options);

  std::int64_t seq_length() const { return seq_length_; }
  std::int64_t tokens_per_epoch() const;  // of all data sets together
  // tokens [seq_length + 1]: inputs are all but the last, targets all but the first. By any thread.
  void read(std::int64_t index, std::span<std::int32_t> tokens) const;

 private:
  std::int64_t seq_length_;
  std::vector<std::unique_ptr<DatasetSamples>> datasets_;
  std::unique_ptr<BlendOrder> order_;
};

}  // namespace xmoe
