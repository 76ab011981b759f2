// From documents to an indexed dataset: tokenized on several threads, written in order, each with the
// end-of-document token behind it.
#pragma once

#include <cstdint>

#include "data/documents/document_reader.h"
#include "data/indexed_dataset/indexed_dataset.h"
#include "data/tokenizer/tokenizer.h"

namespace xmoe {

struct PrepareResult {
  std::int64_t documents = 0;
  std::int64_t empty_documents = 0;  // left out
  std::int64_t tokens = 0;           // ends of documents included
  std::int64_t text_bytes = 0;
};

// Shows progress. Memory depends on the number of workers and, for JSONL, on the longest line. `writer` is
// not finished.
PrepareResult prepare_dataset(DocumentReader& reader, const Tokenizer& tokenizer, int workers,
                              IndexedDatasetWriter& writer);

}  // namespace xmoe
