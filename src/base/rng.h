// Counter-based random numbers (Philox4x32-10; Salmon et al., SC'11): the value at a counter is a pure
// function of (seed, stream, counter), so results depend neither on the number of ranks nor on the order of
// evaluation.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace xmoe {

// Usable in kernels.
constexpr std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t stream,
                                              std::uint64_t counter) {
  // Multipliers and Weyl increments of the published generator.
  constexpr std::uint64_t kMul0 = 0xD2511F53;
  constexpr std::uint64_t kMul1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
  constexpr int kRounds = 10;
  std::array<std::uint32_t, 4> c = {
      static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
      static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p0 = kMul0 * c[0];
    const std::uint64_t p1 = kMul1 * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

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
  // Mean 0, variance 1 (Box-Muller): sqrt(-2 ln u) cos(2 pi v) of the pair at the counter.
  double normal(std::uint64_t counter) const;
  // Of 53 bits each: u in (0, 1], so that its logarithm is finite, and v in [0, 1). Usable in kernels.
  struct UniformPair {
    double u, v;
  };
  constexpr UniformPair uniform_pair(std::uint64_t counter) const {
    const auto r = philox(seed_, stream_, counter);
    const std::uint64_t a = (static_cast<std::uint64_t>(r[1]) << 32) | r[0];
    const std::uint64_t b = (static_cast<std::uint64_t>(r[3]) << 32) | r[2];
    return {(static_cast<double>(a >> 11) + 1.0) * 0x1p-53, static_cast<double>(b >> 11) * 0x1p-53};
  }
  // In [0, bound), bound > 0; by multiplication, with a bias below bound / 2^64.
  std::uint64_t below(std::uint64_t counter, std::uint64_t bound) const;

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
};

}  // namespace xmoe
