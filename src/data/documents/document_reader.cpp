#include "data/documents/document_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace xmoe {

namespace {

// Enough work for a thread to be worth handing out, small enough to share a document out among threads.
constexpr std::size_t kChunkBytes = std::size_t{256} << 10;

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

bool is_jsonl(const std::filesystem::path& path, DocumentFormat format) {
  if (format != DocumentFormat::by_extension) return format == DocumentFormat::jsonl;
  return path.extension() == ".jsonl" || path.extension() == ".json";
}

}  // namespace

DocumentReader::DocumentReader(std::vector<std::filesystem::path> files, DocumentReaderOptions options)
    : files_(std::move(files)), options_(std::move(options)) {
  for (const auto& path : files_) {
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (error) fail("cannot read {}: {}; expected a text or JSONL file", path.string(), error.message());
    total_bytes_ += static_cast<std::int64_t>(bytes);
  }
}

bool DocumentReader::open_next_file() {
  if (next_file_ == files_.size()) return false;
  bytes_before_file_ = bytes_read();
  position_ = document_end_ = 0;
  line_ = 0;
  json_ = is_jsonl(files_[next_file_], options_.format);
  file_ = std::make_shared<const MappedFile>(files_[next_file_]);
  ++next_file_;
  return true;
}

bool DocumentReader::next(DocumentChunk& chunk) {
  while (true) {
    if (file_ && (json_ ? next_line(chunk) : next_text(chunk))) {
      chunk.file = file_;
      chunk.json = json_;
      return true;
    }
    if (!open_next_file()) return false;
  }
}

bool DocumentReader::next_line(DocumentChunk& chunk) {
  const std::string_view text = file_->text();
  while (position_ < text.size()) {
    const std::size_t end = std::min(text.find('\n', position_), text.size());
    chunk.raw = text.substr(position_, end - position_);
    chunk.ends_document = true;
    chunk.line = ++line_;
    position_ = std::min(end + 1, text.size());
    if (!is_blank(chunk.raw)) return true;
  }
  return false;
}

// Sets document_end_ to the end of the document that starts at position_, which it moves past blank lines.
void DocumentReader::find_text_document() {
  const std::string_view text = file_->text();
  document_end_ = text.size();
  if (options_.text_documents == TextDocuments::file) return;
  bool inside = false;
  for (std::size_t begin = position_; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const bool blank = is_blank(text.substr(begin, end - begin));
    if (blank && inside) {
      document_end_ = begin - 1;  // without the last line's end
      return;
    }
    if (!blank && !inside) {
      inside = true;
      position_ = begin;
    }
    begin = end + 1;
  }
  if (!inside) {
    position_ = text.size();
  } else if (text.back() == '\n') {
    --document_end_;
  }
}

bool DocumentReader::next_text(DocumentChunk& chunk) {
  if (position_ >= document_end_) {
    if (document_end_ > 0 && options_.text_documents == TextDocuments::file) return false;
    find_text_document();
  }
  if (position_ >= document_end_) return false;
  const std::string_view document = file_->text().substr(position_, document_end_ - position_);
  chunk.raw = document.substr(0, safe_cut(document, kChunkBytes));
  chunk.ends_document = chunk.raw.size() == document.size();
  position_ += chunk.raw.size();
  return true;
}

std::string_view DocumentReader::text_of(const DocumentChunk& chunk, std::string& storage) const {
  if (!chunk.json) return chunk.raw;
  const std::string& path = chunk.file->path().string();
  try {
    auto value = nlohmann::json::parse(chunk.raw);
    const auto field = value.is_object() ? value.find(options_.json_key) : value.end();
    if (!value.is_object() || field == value.end() || !field->is_string())
      fail("{} line {}: expected an object with a string under \"{}\" (--json-key), found {}", path,
           chunk.line, options_.json_key,
           !value.is_object()     ? std::string(value.type_name())
           : field == value.end() ? std::string("no such key")
                                  : std::string(field->type_name()) + " under it");
    storage = std::move(field->get_ref<std::string&>());
  } catch (const nlohmann::json::exception& error) {
    fail("{} line {}: not JSON: {}", path, chunk.line, error.what());
  }
  return storage;
}

}  // namespace xmoe
