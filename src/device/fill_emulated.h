// Memory that nobody wrote, of the emulated GPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace xmoe::gpu::emulated {

// A NaN as f32, and both halves NaNs as bf16 and f16; as an integer beyond every count. Also where the
// sanitizer forbids to write, since what lies between variables is filled with them.
__attribute__((no_sanitize("address"))) inline void fill_unwritten(void* data, std::size_t bytes) {
  constexpr std::uint32_t kUnwritten = 0x7fc17fc1U;
  // Volatile, so that no call of memset comes of it, which the sanitizer would check.
  auto* byte = static_cast<volatile unsigned char*>(data);
  for (; bytes > 0 && reinterpret_cast<std::uintptr_t>(byte) % sizeof kUnwritten != 0; --bytes)
    *byte++ = static_cast<unsigned char>(kUnwritten);
  auto* word = reinterpret_cast<volatile std::uint32_t*>(byte);
  for (; bytes >= sizeof kUnwritten; bytes -= sizeof kUnwritten) *word++ = kUnwritten;
  byte = reinterpret_cast<volatile unsigned char*>(word);
  for (; bytes > 0; --bytes) *byte++ = static_cast<unsigned char>(kUnwritten >> 8);
}

}  // namespace xmoe::gpu::emulated
