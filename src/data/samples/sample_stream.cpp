#include "data/samples/sample_stream.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/rng.h"

namespace xmoe {

namespace {

// Samples near the end of an epoch reach into the next, and threads may be on either side; two more so that
// small data sets, whose samples span several epochs, do not shuffle them anew each time.
constexpr std::size_t kEpochsKept = 4;

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// 0 .. count - 1 in a random order (Fisher-Yates).
std::vector<std::int64_t> permutation(std::int64_t count, const Rng& rng) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<std::size_t>(rng.below(i, i))]);
  return order;
}

}  // namespace

struct DatasetSamples::Epoch {
  std::int64_t number = 0;
  std::vector<std::int64_t> documents;  // in the order of the epoch
  std::vector<std::int64_t> ends;       // [documents]: tokens of the epoch up to the end of each
  std::vector<std::int64_t> samples;    // in the order of the epoch, counted from its first
};

DatasetSamples::DatasetSamples(std::shared_ptr<const IndexedDataset> dataset, DocumentRange range,
                               const SampleOptions& options, std::uint64_t stream)
    : dataset_(std::move(dataset)), range_(range), options_(options), stream_(stream) {
  XMOE_CHECK(options_.seq_length > 0, "sequence length {}", options_.seq_length);
  tokens_ = dataset_->document_begin(range_.end) - dataset_->document_begin(range_.begin);
}

std::int64_t DatasetSamples::first_sample(std::int64_t epoch) const {
  return ceil_divide(epoch * tokens_, options_.seq_length);
}

std::shared_ptr<const DatasetSamples::Epoch> DatasetSamples::make_epoch(std::int64_t number) const {
  auto epoch = std::make_shared<Epoch>();
  epoch->number = number;
  const auto rng = [&](const char* what) {
    return Rng(options_.seed, fmt::format("{} of data set {} in epoch {}", what, stream_, number));
  };
  epoch->documents = permutation(range_.end - range_.begin, rng("documents"));
  epoch->ends.reserve(epoch->documents.size());
  std::int64_t end = 0;
  for (std::int64_t& document : epoch->documents) {
    document += range_.begin;
    end += dataset_->document_length(document);
    epoch->ends.push_back(end);
  }
  epoch->samples = permutation(first_sample(number + 1) - first_sample(number), rng("samples"));
  return epoch;
}

std::shared_ptr<const DatasetSamples::Epoch> DatasetSamples::epoch(std::int64_t number) const {
  const std::scoped_lock lock(mutex_);
  const auto found = std::find_if(epochs_.begin(), epochs_.end(),
                                  [&](const auto& epoch) { return epoch->number == number; });
  if (found != epochs_.end()) {
    epochs_.splice(epochs_.begin(), epochs_, found);
  } else {
    epochs_.push_front(make_epoch(number));
    if (epochs_.size() > kEpochsKept) epochs_.pop_back();
  }
  return epochs_.front();
}

void DatasetSamples::read_document(std::int64_t document, std::int64_t offset,
                                   std::span<std::int32_t> out) const {
  dataset_->read(document, offset, out);
  if (options_.vocab_size == 0) return;
  for (std::size_t i = 0; i < out.size(); ++i)
    if (out[i] < 0 || out[i] >= options_.vocab_size)
      dataset_->fail_token_id(document, offset + static_cast<std::int64_t>(i), out[i], options_.vocab_size);
}

void DatasetSamples::read(std::int64_t index, std::span<std::int32_t> tokens) const {
  XMOE_CHECK(index >= 0 && static_cast<std::int64_t>(tokens.size()) == options_.seq_length + 1,
             "sample {}, {} tokens of a sequence length of {}", index, tokens.size(), options_.seq_length);
  // Sample position j begins at token j * S, and index i counts positions: both lie in the same epoch.
  std::int64_t number = index * options_.seq_length / tokens_;
  auto current = epoch(number);
  const std::int64_t first = first_sample(number);
  const std::int64_t position = first + current->samples[static_cast<std::size_t>(index - first)];
  std::int64_t offset = position * options_.seq_length - number * tokens_;  // within the epoch
  for (std::size_t done = 0; done < tokens.size();) {
    if (offset == tokens_) {
      current = epoch(++number);
      offset = 0;
    }
    auto place = static_cast<std::size_t>(
        std::upper_bound(current->ends.begin(), current->ends.end(), offset) - current->ends.begin());
    for (; done < tokens.size() && place < current->ends.size(); ++place) {
      const std::int64_t begin = place == 0 ? 0 : current->ends[place - 1];
      const auto count =
          std::min(static_cast<std::size_t>(current->ends[place] - offset), tokens.size() - done);
      read_document(current->documents[place], offset - begin, tokens.subspan(done, count));
      done += count;
      offset += static_cast<std::int64_t>(count);
    }
  }
}

SampleStream::SampleStream(const DataBlend& blend, const SplitWeights& weights, Split split,
                           const SampleOptions& options)
    : seq_length_(options.seq_length) {
  XMOE_CHECK(!blend.empty(), "a blend of no data sets");
  std::vector<double> shares;
  for (const auto& [weight, dataset] : blend) {
    const DocumentRange range = documents_of(split, weights, dataset->documents());
    auto samples = std::make_unique<DatasetSamples>(dataset, range, options, datasets_.size());
    if (samples->tokens_per_epoch() == 0)
      fail(
          "{}: the {} split holds no tokens: --split leaves it {} of {} documents; give it a larger share, "
          "or prepare the "
          "text as smaller documents",
          dataset->prefix().string(), name_of(split), range.end - range.begin, dataset->documents());
    datasets_.push_back(std::move(samples));
    shares.push_back(weight);
  }
  order_ = std::make_unique<BlendOrder>(std::move(shares));
}

std::int64_t SampleStream::tokens_per_epoch() const {
  std::int64_t tokens = 0;
  for (const auto& dataset : datasets_) tokens += dataset->tokens_per_epoch();
  return tokens;
}

void SampleStream::read(std::int64_t index, std::span<std::int32_t> tokens) const {
  const BlendOrder::Choice choice = order_->at(index);
  datasets_[choice.dataset]->read(choice.index, tokens);
}

}  // namespace xmoe
