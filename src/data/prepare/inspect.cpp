#include "data/prepare/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace xmoe {

namespace {

// One line, whatever the bytes: control characters would disturb the terminal.
std::string printable(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      shown += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

struct Lengths {
  std::int64_t shortest = 0;
  std::int64_t median = 0;
  std::int64_t longest = 0;
};

Lengths document_lengths(const IndexedDataset& dataset) {
  std::vector<std::int64_t> lengths;
  lengths.reserve(static_cast<std::size_t>(dataset.documents()));
  for (std::int64_t d = 0; d < dataset.documents(); ++d) lengths.push_back(dataset.document_length(d));
  if (lengths.empty()) return {};
  const auto middle = lengths.begin() + static_cast<std::ptrdiff_t>(lengths.size() / 2);
  std::nth_element(lengths.begin(), middle, lengths.end());
  return {*std::min_element(lengths.begin(), lengths.end()), *middle,
          *std::max_element(lengths.begin(), lengths.end())};
}

}  // namespace

std::string inspect_dataset(const IndexedDataset& dataset, const InspectOptions& options) {
  const std::int64_t bound = options.tokenizer != nullptr ? options.tokenizer->vocab_size()
                                                          : std::numeric_limits<std::int32_t>::max();
  dataset.check_token_ids(bound);
  const Lengths lengths = document_lengths(dataset);
  std::string text = fmt::format(
      "{}\n  documents   {}\n  sequences   {}\n  tokens      {}\n  token type  {}\n"
      "  document length in tokens: shortest {}, median {}, longest {}\n",
      dataset.prefix().string(), dataset.documents(), dataset.sequences(), dataset.tokens(),
      name_of(dataset.type()), lengths.shortest, lengths.median, lengths.longest);
  text += options.tokenizer != nullptr
              ? fmt::format("  verified: index, sizes, and that all token ids are below {}\n", bound)
              : std::string("  verified: index and sizes; with --tokenizer, token ids are checked too\n");
  for (std::int64_t d = 0; d < std::min(options.shown_documents, dataset.documents()); ++d) {
    const std::int64_t length = dataset.document_length(d);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(std::min(length, options.shown_tokens)));
    dataset.read(d, 0, tokens);
    text += fmt::format("  document {} ({} tokens): ", d, length);
    text += options.tokenizer != nullptr ? printable(options.tokenizer->decode(tokens))
                                         : fmt::format("{}", fmt::join(tokens, " "));
    text += static_cast<std::int64_t>(tokens.size()) < length ? " ...\n" : "\n";
  }
  return text;
}

}  // namespace xmoe
