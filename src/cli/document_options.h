// The flags that say what the documents of input files are; shared by `tokenizer train` and `data prepare`.
#pragma once

#include <CLI/CLI.hpp>

#include <filesystem>
#include <vector>

#include "data/documents/document_reader.h"

namespace xmoe {

struct DocumentOptions {
  std::vector<std::filesystem::path> inputs;  // --input
  DocumentReaderOptions reader;               // --input-format, --json-key

  void add_to(CLI::App& command);
};

}  // namespace xmoe
