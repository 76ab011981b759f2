// Distinct byte strings, numbered in the order of their first appearance: the words of a text, the tokens of
// a vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace xmoe {

class StringTable {
 public:
  static constexpr std::int32_t kNone = -1;

  std::int32_t find(std::string_view text) const;               // its number, or kNone
  std::pair<std::int32_t, bool> insert(std::string_view text);  // its number, and whether it is new
  void clear();                                                 // keeps the memory

  std::string_view operator[](std::size_t i) const {
    const Entry& entry = entries_[i];
    return std::string_view(bytes_).substr(entry.offset, entry.length);
  }
  std::size_t size() const { return entries_.size(); }
  std::size_t bytes() const { return bytes_.size(); }  // of all strings together

 private:
  struct Entry {
    std::uint64_t offset;
    std::uint64_t hash;
    std::size_t length;
  };
  struct Slot {
    std::int32_t number = kNone;
    std::uint32_t tag = 0;  // upper half of the hash: most mismatches end here, without touching the entry
  };

  std::size_t slot_of(std::string_view text, std::uint64_t hash) const;  // where it is or would be
  void grow();

  std::string bytes_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;  // open addressing; the size is a power of two
};

}  // namespace xmoe
