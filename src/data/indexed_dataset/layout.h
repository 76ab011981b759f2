// Offsets of the header of a .idx file; all values are little-endian, the arrays behind it are unaligned.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace xmoe::idx {

static_assert(std::endian::native == std::endian::little, "values are copied as they lie in the file");

inline constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
inline constexpr std::uint64_t kVersion = 1;
inline constexpr std::size_t kVersionOffset = 9;     // u64
inline constexpr std::size_t kTypeOffset = 17;       // u8
inline constexpr std::size_t kSequencesOffset = 18;  // u64
inline constexpr std::size_t kDocumentsOffset = 26;  // u64: documents + 1
inline constexpr std::size_t kHeaderBytes = 34;
inline constexpr std::size_t kBytesPerSequence = 12;  // i32 length, i64 byte offset
inline constexpr std::size_t kBytesPerDocument = 8;   // i64 first sequence

}  // namespace xmoe::idx
