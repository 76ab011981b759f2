#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace xmoe {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;  // large enough that system calls cost nothing

[[noreturn]] void fail_system(const char* doing, const std::filesystem::path& path, int code) {
  fail("cannot {} {}: {}", doing, path.string(), std::strerror(code));
}

[[noreturn]] void fail_write(const std::filesystem::path& path, int code, std::size_t wanted) {
  if (code == ENOSPC || code == EDQUOT) {
    std::error_code ignored;
    const auto space = std::filesystem::space(path.parent_path().empty() ? "." : path.parent_path(), ignored);
    fail("cannot write {}: {}: needed {} more bytes, {} are free; free some space or write elsewhere",
         path.string(), std::strerror(code), wanted, ignored ? 0 : space.available);
  }
  fail_system("write", path, code);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

int open_uninterrupted(const std::filesystem::path& path, int flags, mode_t mode = 0) {
  return uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, mode); });
}

int sync_uninterrupted(int descriptor) {
  return uninterrupted([&] { return ::fsync(descriptor); });
}

}  // namespace

std::size_t write_fully(int descriptor, std::string_view text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n =
        uninterrupted([&] { return ::write(descriptor, text.data() + done, text.size() - done); });
    if (n < 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

std::string read_text_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return std::string(file.text());
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor fd(open_uninterrupted(path, O_RDONLY));
  if (fd.get() < 0) fail_system("open", path, errno);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) fail_system("read the size of", path, errno);
  if (S_ISDIR(status.st_mode)) fail("cannot read {}: it is a directory, a file was expected", path.string());
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) fail_system("map", path, errno);
  data_ = data;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

FileWriter::FileWriter(const std::filesystem::path& path) : path_(path) {
  descriptor_ = open_uninterrupted(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (descriptor_ < 0) fail_system("create", path, errno);
  buffer_.reserve(kBufferBytes);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileWriter::write(const void* data, std::size_t bytes) {
  if (buffer_.size() + bytes > kBufferBytes) flush();
  buffer_.append(static_cast<const char*>(data), bytes);
  if (buffer_.size() >= kBufferBytes) flush();
  written_ += bytes;
}

void FileWriter::flush() {
  const std::size_t done = write_fully(descriptor_, buffer_);
  if (done < buffer_.size()) fail_write(path_, errno, buffer_.size() - done);
  buffer_.clear();
}

void FileWriter::close(bool sync) {
  flush();
  if (sync && sync_uninterrupted(descriptor_) != 0) fail_write(path_, errno, 0);
  if (::close(std::exchange(descriptor_, -1)) != 0) fail_write(path_, errno, 0);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  FileWriter writer(temporary);
  writer.write(content);
  writer.close(/*sync=*/true);
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail_system("rename a temporary file to", path, errno);
  sync_directory(path.has_parent_path() ? path.parent_path() : ".");
}

void sync_directory(const std::filesystem::path& directory) {
  const Descriptor fd(open_uninterrupted(directory, O_RDONLY | O_DIRECTORY));
  if (fd.get() < 0) fail_system("open", directory, errno);
  if (sync_uninterrupted(fd.get()) != 0) fail_system("sync", directory, errno);
}

}  // namespace xmoe
