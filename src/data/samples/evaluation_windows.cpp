#include "data/samples/evaluation_windows.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace xmoe {

EvaluationWindows::EvaluationWindows(const DataBlend& blend, const SplitWeights& weights, Split split,
                                     std::int64_t seq_length, std::int64_t vocab_size,
                                     std::vector<std::int32_t> byte_lengths)
    : seq_length_(seq_length), vocab_size_(vocab_size), byte_lengths_(std::move(byte_lengths)) {
  if (!byte_lengths_.empty()) {
    const auto known = static_cast<std::int64_t>(byte_lengths_.size());
    vocab_size_ = vocab_size_ == 0 ? known : std::min(vocab_size_, known);
  }
  XMOE_CHECK(seq_length > 0 && !blend.empty(), "sequence length {}, {} data sets", seq_length, blend.size());
  for (const auto& [weight, dataset] : blend) {
    const DocumentRange range = documents_of(split, weights, dataset->documents());
    const std::int64_t length = dataset->document_begin(range.end) - dataset->document_begin(range.begin);
    parts_.push_back({dataset, range, tokens_, tokens_ + length});
    tokens_ += length;
  }
  if (tokens_ < 2)
    fail(
        "{}: the {} split holds {} tokens; expected at least 2: give it a larger share by --split, or "
        "prepare the text as "
        "smaller documents",
        blend[0].dataset->prefix().string(), name_of(split), tokens_);
}

std::int64_t EvaluationWindows::count() const { return (predicted_tokens() + seq_length_ - 1) / seq_length_; }

void EvaluationWindows::read(std::int64_t window, std::span<std::int32_t> inputs,
                             std::span<std::int32_t> targets) const {
  XMOE_CHECK(window >= 0 && window < count(), "window {} of {}", window, count());
  const auto length = static_cast<std::size_t>(seq_length_);
  XMOE_CHECK(inputs.size() == length && targets.size() == length,
             "{} inputs and {} targets of a sequence length of {}", inputs.size(), targets.size(),
             seq_length_);
  const std::int64_t begin = window * seq_length_;
  const auto present = static_cast<std::size_t>(std::min(seq_length_, predicted_tokens() - begin));
  read_tokens(begin, inputs.first(present));
  read_tokens(begin + 1, targets.first(present));
  std::fill(inputs.begin() + static_cast<std::ptrdiff_t>(present), inputs.end(), 0);
  std::fill(targets.begin() + static_cast<std::ptrdiff_t>(present), targets.end(), kIgnored);
}

void EvaluationWindows::read_tokens(std::int64_t begin, std::span<std::int32_t> out) const {
  auto part =
      std::upper_bound(parts_.begin(), parts_.end(), begin,
                       [](std::int64_t position, const Part& candidate) { return position < candidate.end; });
  for (std::size_t done = 0; done < out.size(); ++part) {
    const auto& [dataset, range, first, last] = *part;
    // Position among all tokens of the data set, and the last document that begins at or before it.
    std::int64_t position =
        begin + static_cast<std::int64_t>(done) - first + dataset->document_begin(range.begin);
    std::int64_t low = range.begin;
    std::int64_t high = range.end;
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      (dataset->document_begin(middle) <= position ? low : high) = middle;
    }
    for (std::int64_t document = low; document < range.end && done < out.size(); ++document) {
      const std::int64_t offset = position - dataset->document_begin(document);
      const auto count =
          std::min(static_cast<std::size_t>(dataset->document_length(document) - offset), out.size() - done);
      const auto destination = out.subspan(done, count);
      dataset->read(document, offset, destination);
      for (std::size_t i = 0; i < count && vocab_size_ > 0; ++i)
        if (destination[i] < 0 || destination[i] >= vocab_size_)
          dataset->fail_token_id(document, offset + static_cast<std::int64_t>(i), destination[i],
                                 vocab_size_);
      done += count;
      position += static_cast<std::int64_t>(count);
    }
  }
}

std::int64_t EvaluationWindows::predicted_bytes(std::span<const std::int32_t> targets) const {
  if (byte_lengths_.empty()) return 0;
  std::int64_t bytes = 0;
  for (const std::int32_t target : targets)
    if (target != kIgnored) bytes += byte_lengths_[static_cast<std::size_t>(target)];
  return bytes;
}

}  // namespace xmoe
