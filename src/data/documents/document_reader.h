// Documents out of text and JSONL files, in the order of the files, with memory that does not depend on their
// size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace xmoe {

enum class DocumentFormat {
  by_extension,
  text,
  jsonl
};                                              // by_extension: JSONL if the name ends in .jsonl or .json
enum class TextDocuments { file, blank_line };  // what of a text file is one document

struct DocumentReaderOptions {
  DocumentFormat format = DocumentFormat::by_extension;
  TextDocuments text_documents = TextDocuments::file;
  std::string json_key = "text";
};

// A document, or a part of a large one: parts are cut where pre-tokenizers cut anyway (safe_cut), so that
// they can be tokenized one by one.
struct DocumentChunk {
  std::string_view raw;  // text, or a line of JSONL
  bool ends_document = true;
  bool json = false;
  std::int64_t line = 0;                   // of JSONL, counted from 1
  std::shared_ptr<const MappedFile> file;  // keeps `raw` alive
};

class DocumentReader {
 public:
  // Fails if a file is missing.
  DocumentReader(std::vector<std::filesystem::path> files, DocumentReaderOptions options);

  // The next chunk; false at the end. Empty documents are left out.
  bool next(DocumentChunk& chunk);

  // The text of a chunk; `storage` holds it where it differs from `raw`. By any thread. Fails, naming file
  // and line, if a line is not an object with the key.
  std::string_view text_of(const DocumentChunk& chunk, std::string& storage) const;

  std::int64_t total_bytes() const { return total_bytes_; }
  std::int64_t bytes_read() const { return bytes_before_file_ + static_cast<std::int64_t>(position_); }

 private:
  bool open_next_file();
  bool next_line(DocumentChunk& chunk);
  bool next_text(DocumentChunk& chunk);
  void find_text_document();

  std::vector<std::filesystem::path> files_;
  DocumentReaderOptions options_;
  std::int64_t total_bytes_ = 0;
  std::int64_t bytes_before_file_ = 0;
  std::size_t next_file_ = 0;
  std::shared_ptr<const MappedFile> file_;
  bool json_ = false;
  std::size_t position_ = 0;
  std::size_t document_end_ = 0;
  std::int64_t line_ = 0;
};

}  // namespace xmoe
