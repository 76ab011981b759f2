#include "data/tokenizer/byte_level.h"

#include <cstring>

namespace xmoe {

namespace {

constexpr int kNoByte = -1;
constexpr std::size_t kCodePoints = 0x144;  // 0x100 + the 68 bytes that do not stand for themselves

bool stands_for_itself(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

const std::array<int, kCodePoints>& bytes_of_code_points() {
  static const auto table = [] {
    std::array<int, kCodePoints> result{};
    result.fill(kNoByte);
    for (unsigned byte = 0; byte < 256; ++byte)
      result[byte_level_code_points()[byte]] = static_cast<int>(byte);
    return result;
  }();
  return table;
}

bool is_continuation(unsigned char byte) { return (byte & 0xc0U) == 0x80U; }

// Length of the well-formed multi-byte sequence at the start of `text`, 0 if there is none (Unicode 15, table
// 3-7).
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if (!is_continuation(byte(i))) return 0;
  const bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xed && byte(1) > 0x9f;
  const bool too_large = lead == 0xf4 && byte(1) > 0x8f;
  return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

const std::array<std::uint16_t, 256>& byte_level_code_points() {
  static const auto table = [] {
    std::array<std::uint16_t, 256> result{};
    std::uint16_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte)
      result[byte] = stands_for_itself(byte) ? static_cast<std::uint16_t>(byte) : next++;
    return result;
  }();
  return table;
}

std::string to_byte_level(std::string_view bytes) {
  std::string printed;
  printed.reserve(bytes.size() + bytes.size() / 4);
  for (const char c : bytes) {
    const unsigned code_point = byte_level_code_points()[static_cast<unsigned char>(c)];
    if (code_point < 0x80) {
      printed.push_back(static_cast<char>(code_point));
    } else {
      printed.push_back(static_cast<char>(0xc0U | (code_point >> 6)));
      printed.push_back(static_cast<char>(0x80U | (code_point & 0x3fU)));
    }
  }
  return printed;
}

std::optional<std::string> from_byte_level(std::string_view printed) {
  std::string bytes;
  bytes.reserve(printed.size());
  for (std::size_t i = 0; i < printed.size(); ++i) {
    unsigned code_point = static_cast<unsigned char>(printed[i]);
    if (code_point >= 0x80) {
      // Two bytes of UTF-8 reach U+07FF, far past the table.
      if ((code_point & 0xe0U) != 0xc0U || i + 1 == printed.size()) return std::nullopt;
      code_point = ((code_point & 0x1fU) << 6) | (static_cast<unsigned char>(printed[++i]) & 0x3fU);
    }
    if (code_point >= kCodePoints) return std::nullopt;
    const int byte = bytes_of_code_points()[code_point];
    if (byte == kNoByte) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    // Eight bytes of ASCII at a time: most text is.
    std::uint64_t word = 0;
    if (i + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + i, sizeof(word));
      if ((word & 0x8080808080808080U) == 0) {
        i += sizeof(word);
        continue;
      }
    }
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const std::size_t length = sequence_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return i;
}

}  // namespace xmoe
