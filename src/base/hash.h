// 64-bit xxHash (XXH3) of bytes: checksums of files, streams of random numbers. Not cryptographic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace xmoe {

std::uint64_t hash64(const void* data, std::size_t bytes, std::uint64_t seed = 0);
inline std::uint64_t hash64(std::string_view text, std::uint64_t seed = 0) {
  return hash64(text.data(), text.size(), seed);
}

// The same hash of bytes that come piece by piece.
class StreamHash64 {
 public:
  StreamHash64();
  ~StreamHash64();
  StreamHash64(const StreamHash64&) = delete;
  StreamHash64& operator=(const StreamHash64&) = delete;

  void update(const void* data, std::size_t bytes);
  std::uint64_t digest() const;  // of all bytes so far

 private:
  void* state_;
};

}  // namespace xmoe
