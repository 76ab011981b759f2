#include <cstring>
#include <limits>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "data/indexed_dataset/indexed_dataset.h"
#include "data/indexed_dataset/layout.h"

namespace xmoe {

namespace {

std::filesystem::path with_suffix(const std::filesystem::path& path, const char* suffix) {
  return path.string() + suffix;
}
std::filesystem::path temporary_bin(const std::filesystem::path& prefix) {
  return with_suffix(bin_path(prefix), ".tmp");
}
std::filesystem::path temporary_idx(const std::filesystem::path& prefix) {
  return with_suffix(idx_path(prefix), ".tmp");
}
std::filesystem::path temporary_lengths(const std::filesystem::path& prefix) {
  return with_suffix(idx_path(prefix), ".lengths.tmp");
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

const std::filesystem::path& with_folder(const std::filesystem::path& prefix) {
  std::error_code error;
  std::filesystem::create_directories(folder_of(prefix), error);
  if (error) fail("cannot create the folder {}: {}", folder_of(prefix).string(), error.message());
  return prefix;
}

template <typename T>
void write_value(FileWriter& file, T value) {
  file.write(&value, sizeof(value));
}

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) fail("cannot rename {} to {}: {}", from.string(), to.string(), error.message());
}

}  // namespace

IndexedDatasetWriter::IndexedDatasetWriter(const std::filesystem::path& prefix, std::int64_t vocab_size)
    : prefix_(with_folder(prefix)),
      vocab_size_(vocab_size),
      type_(token_type_for(vocab_size)),
      bin_(temporary_bin(prefix)),
      lengths_(temporary_lengths(prefix)) {}

IndexedDatasetWriter::~IndexedDatasetWriter() {
  if (finished_) return;
  std::error_code ignored;
  for (const auto& path : {temporary_bin(prefix_), temporary_idx(prefix_), temporary_lengths(prefix_)})
    std::filesystem::remove(path, ignored);
}

void IndexedDatasetWriter::append(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens)
    XMOE_CHECK(token >= 0 && token < vocab_size_, "token id {} of a vocabulary of {}", token, vocab_size_);
  if (type_ == TokenType::i32) {
    bin_.write(tokens.data(), tokens.size_bytes());
  } else {
    std::vector<std::uint16_t> narrow(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) narrow[i] = static_cast<std::uint16_t>(tokens[i]);
    bin_.write(narrow.data(), narrow.size() * sizeof(narrow[0]));
  }
  document_tokens_ += static_cast<std::int64_t>(tokens.size());
  tokens_ += static_cast<std::int64_t>(tokens.size());
}

void IndexedDatasetWriter::end_document() {
  if (document_tokens_ > std::numeric_limits<std::int32_t>::max())
    fail("document {} has {} tokens; the format holds at most {} in a document: split it into smaller ones",
         documents_, document_tokens_, std::numeric_limits<std::int32_t>::max());
  write_value(lengths_, static_cast<std::int32_t>(document_tokens_));
  document_tokens_ = 0;
  ++documents_;
}

void IndexedDatasetWriter::write_index(const std::filesystem::path& path) {
  const MappedFile mapped(temporary_lengths(prefix_));
  const auto length_at = [&](std::int64_t i) {
    std::int32_t length = 0;
    std::memcpy(&length, mapped.bytes().data() + static_cast<std::size_t>(i) * sizeof(length),
                sizeof(length));
    return length;
  };
  FileWriter file(path);
  file.write(idx::kMagic);
  write_value(file, idx::kVersion);
  write_value(file, static_cast<std::uint8_t>(type_));
  write_value(file, static_cast<std::uint64_t>(documents_));
  write_value(file, static_cast<std::uint64_t>(documents_ + 1));
  file.write(mapped.text());
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < documents_; ++i) {
    write_value(file, offset);
    offset += length_at(i) * static_cast<std::int64_t>(xmoe::size_of(type_));
  }
  for (std::int64_t i = 0; i <= documents_; ++i) write_value(file, i);
  file.close(/*sync=*/true);
}

void IndexedDatasetWriter::finish() {
  XMOE_CHECK(document_tokens_ == 0, "document {} has not been ended", documents_);
  bin_.close(/*sync=*/true);
  lengths_.close(/*sync=*/false);
  write_index(temporary_idx(prefix_));
  // The index of an older pair goes first and the new one comes last: a crash leaves no index that does not
  // fit its data.
  std::error_code error;
  std::filesystem::remove(idx_path(prefix_), error);
  if (error) fail("cannot replace {}: {}", idx_path(prefix_).string(), error.message());
  sync_directory(folder_of(prefix_));
  rename_file(temporary_bin(prefix_), bin_path(prefix_));
  rename_file(temporary_idx(prefix_), idx_path(prefix_));
  sync_directory(folder_of(prefix_));
  std::filesystem::remove(temporary_lengths(prefix_), error);
  finished_ = true;
}

}  // namespace xmoe
