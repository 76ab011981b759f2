// The k best of one row of scores on the CPU, exactly: NaN last, equal scores by the lower index.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace xmoe::cpu {

// A score and its index in one integer: greater means chosen earlier. Never 0, which marks a taken or
// excluded entry.
inline std::uint64_t ranked(float score, std::uint32_t index) {
  // +0 makes of -0 its equal, so that the two tie.
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);
  // Order of IEEE numbers as unsigned integers: flip all bits of negative ones, the sign of the others.
  const std::uint32_t flip = static_cast<std::uint32_t>(-static_cast<std::int32_t>(bits >> 31)) | 0x80000000U;
  const std::uint32_t order = (bits & 0x7fffffffU) > 0x7f800000U ? 0U : bits ^ flip;  // NaN below -infinity
  return std::uint64_t{order} << 32 | (0xffffffffU - index);
}

inline std::uint32_t ranked_index(std::uint64_t entry) {
  return 0xffffffffU - static_cast<std::uint32_t>(entry);
}

// Takes entries in decreasing order. The maxima of blocks of entries are kept, so that each step looks at one
// block and the maxima only: E + k (E / 16 + 16) steps, all of which vectorise.
class Selection {
 public:
  // Close to the square root of a few hundred experts, and whole vectors.
  static constexpr std::int64_t kBlock = 16;

  static std::int64_t padded(std::int64_t experts) { return (experts + kBlock - 1) / kBlock * kBlock; }

  // entries: padded(E) of them, zero past the E-th; maxima: padded(E) / kBlock.
  Selection(std::uint64_t* entries, std::uint64_t* maxima, std::int64_t experts)
      : entries_(entries), maxima_(maxima), blocks_(padded(experts) / kBlock) {
    for (std::int64_t b = 0; b < blocks_; ++b) maxima_[b] = greatest(entries_ + b * kBlock, kBlock);
  }

  // At most as many calls as there are non-zero entries.
  std::uint32_t take() {
    const std::uint32_t index = ranked_index(greatest(maxima_, blocks_));
    entries_[index] = 0;
    const std::int64_t block = index / kBlock;
    maxima_[block] = greatest(entries_ + block * kBlock, kBlock);
    return index;
  }

 private:
  static std::uint64_t greatest(const std::uint64_t* x, std::int64_t n) {
    std::uint64_t best = 0;
    for (std::int64_t i = 0; i < n; ++i) best = std::max(best, x[i]);
    return best;
  }

  std::uint64_t* entries_;
  std::uint64_t* maxima_;
  std::int64_t blocks_;
};

}  // namespace xmoe::cpu
