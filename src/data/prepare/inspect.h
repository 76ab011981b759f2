// What is in an indexed dataset, as text for a person, after every invariant has been checked.
#pragma once

#include <cstdint>
#include <string>

#include "data/indexed_dataset/indexed_dataset.h"
#include "data/tokenizer/tokenizer.h"

namespace xmoe {

struct InspectOptions {
  const Tokenizer* tokenizer = nullptr;  // checks the token ids against its vocabulary, and shows text
  std::int64_t shown_documents = 3;      // how many documents are shown, from the first
  std::int64_t shown_tokens = 32;        // how many tokens of each
};

std::string inspect_dataset(const IndexedDataset& dataset, const InspectOptions& options);

}  // namespace xmoe
