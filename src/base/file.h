// Files: every error names the path, the system's reason and, where space is the reason, what was needed and
// free.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace xmoe {

// A system call, made again as long as a signal interrupts it: a signal that asks for the end of a training
// is no reason to lose a file. Never of close(), which has closed the descriptor even when it was
// interrupted.
template <typename Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Bytes written before an error, which errno names; all of `text` without one.
std::size_t write_fully(int descriptor, std::string_view text);

std::string read_text_file(const std::filesystem::path& path);

// Read-only memory map of a whole file. An empty file maps to an empty span.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// Buffered sequential writer. write() and close() throw Error; the destructor closes silently.
class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  std::uint64_t written() const { return written_; }
  void close(bool sync);  // flushes; with sync also waits for the disk

 private:
  void flush();

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t written_ = 0;
  std::string buffer_;
};

// Writes a whole file under a temporary name, waits for the disk and renames it over `path`.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

void sync_directory(const std::filesystem::path& directory);  // makes renames in it durable

}  // namespace xmoe
