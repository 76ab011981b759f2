// Counter-based random numbers (Philox4x32-10; Salmon et al., SC'11): the value at a counter is a pure
// function of (seed, stream, counter), so results depend neither on the number of ranks nor on the order of
// evaluation.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace xmoe {

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t stream, std::uint64_t counter);

// 32 random bits at a counter, for where philox would cost more than the work itself: two rounds of a mixing
// function with full avalanche. For one key, 2^32 consecutive counters have 2^32 different values. Usable in
// kernels.
constexpr std::uint32_t cheap_bits(std::uint64_t key, std::uint64_t counter) {
  constexpr std::uint32_t kGolden =
      0x9E3779B9U;  // 2^32 / golden ratio: spreads the upper half of the counter
  const auto mix = [](std::uint32_t h) {
    // Odd multipliers and shifts that were searched for least bias (lowbias32, Wellons 2018).
    h = (h ^ (h >> 16)) * 0x21F0AAADU;
    h = (h ^ (h >> 15)) * 0x735A2D97U;
    return h ^ (h >> 15);
  };
  // The key's lower half goes in behind the first round: keys that are small numbers, too, give the same
  // counters other values, not the same values in another order.
  const auto word = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  return mix(mix(word(counter) ^ (word(counter >> 32) * kGolden) ^ word(key >> 32)) ^ word(key));
}

class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
  // The stream is a hash of the name, so that every parameter has its own.
  Rng(std::uint64_t seed, std::string_view name);

  std::uint64_t bits(std::uint64_t counter) const;
  double uniform(std::uint64_t counter) const;  // in [0, 1), 53 bits
  double normal(std::uint64_t counter) const;   // mean 0, variance 1 (Box-Muller)
  // In [0, bound), bound > 0; by multiplication, with a bias below bound / 2^64.
  std::uint64_t below(std::uint64_t counter, std::uint64_t bound) const;

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
};

}  // namespace xmoe
