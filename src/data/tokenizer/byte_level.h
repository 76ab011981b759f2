// Bytes as printable characters: the alphabet in which byte-level BPE files (GPT-2, Hugging Face) write their
// tokens, so that any byte string is legal JSON. Bytes that are printable in Latin-1 stand for themselves
// (33-126, 161-172, 174-255); the other 68 take the code points from U+0100 upward, in order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace xmoe {

// Code point of each byte; all are below U+0144.
const std::array<std::uint16_t, 256>& byte_level_code_points();

std::string to_byte_level(std::string_view bytes);  // always valid UTF-8
std::optional<std::string> from_byte_level(
    std::string_view printed);  // nothing if a character stands for no byte

// Length of the longest prefix of `text` that is well-formed UTF-8 (no overlong forms, surrogates or code
// points past U+10FFFF).
std::size_t valid_utf8_prefix(std::string_view text);

}  // namespace xmoe
