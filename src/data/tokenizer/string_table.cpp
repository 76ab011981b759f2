#include "data/tokenizer/string_table.h"

#include <limits>

#include "base/error.h"
#include "base/hash.h"

namespace xmoe {

namespace {
constexpr std::size_t kFirstSlots = 256;
std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32); }
}  // namespace

std::size_t StringTable::slot_of(std::string_view text, std::uint64_t hash) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = hash & mask;
  while (slots_[i].number != kNone) {
    if (slots_[i].tag == tag_of(hash) && (*this)[static_cast<std::size_t>(slots_[i].number)] == text) break;
    i = (i + 1) & mask;
  }
  return i;
}

std::int32_t StringTable::find(std::string_view text) const {
  return slots_.empty() ? kNone : slots_[slot_of(text, hash64(text))].number;
}

std::pair<std::int32_t, bool> StringTable::insert(std::string_view text) {
  // At most half full, so that probes stay short.
  if (slots_.size() < 2 * (entries_.size() + 1)) grow();
  const std::uint64_t hash = hash64(text);
  Slot& slot = slots_[slot_of(text, hash)];
  if (slot.number != kNone) return {slot.number, false};
  XMOE_CHECK(entries_.size() < static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()),
             "{} distinct strings", entries_.size());
  slot = {static_cast<std::int32_t>(entries_.size()), tag_of(hash)};
  entries_.push_back({bytes_.size(), hash, text.size()});
  bytes_.append(text);
  return {slot.number, true};
}

void StringTable::clear() {
  bytes_.clear();
  entries_.clear();
  slots_.assign(slots_.size(), Slot{});
}

void StringTable::grow() {
  slots_.assign(slots_.empty() ? kFirstSlots : 2 * slots_.size(), Slot{});
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t number = 0; number < entries_.size(); ++number) {
    const std::uint64_t hash = entries_[number].hash;
    std::size_t i = hash & mask;
    while (slots_[i].number != kNone) i = (i + 1) & mask;
    slots_[i] = {static_cast<std::int32_t>(number), tag_of(hash)};
  }
}

}  // namespace xmoe
