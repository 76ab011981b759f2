#include "base/rng.h"

#include <cmath>
#include <numbers>

#include "base/hash.h"

namespace xmoe {

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t stream, std::uint64_t counter) {
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

Rng::Rng(std::uint64_t seed, std::string_view name) : Rng(seed, hash64(name)) {}

std::uint64_t Rng::bits(std::uint64_t counter) const {
  const auto r = philox(seed_, stream_, counter);
  return (static_cast<std::uint64_t>(r[1]) << 32) | r[0];
}

double Rng::uniform(std::uint64_t counter) const {
  return static_cast<double>(bits(counter) >> 11) * 0x1p-53;
}

double Rng::normal(std::uint64_t counter) const {
  const auto r = philox(seed_, stream_, counter);
  const std::uint64_t a = (static_cast<std::uint64_t>(r[1]) << 32) | r[0];
  const std::uint64_t b = (static_cast<std::uint64_t>(r[3]) << 32) | r[2];
  const double u = (static_cast<double>(a >> 11) + 1.0) * 0x1p-53;  // in (0, 1]: its logarithm is finite
  const double v = static_cast<double>(b >> 11) * 0x1p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

std::uint64_t Rng::below(std::uint64_t counter, std::uint64_t bound) const {
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits(counter)) * bound) >> 64);
}

}  // namespace xmoe
