#include "base/rng.h"

#include <cmath>
#include <numbers>

#include "base/hash.h"

namespace xmoe {

Rng::Rng(std::uint64_t seed, std::string_view name) : Rng(seed, hash64(name)) {}

std::uint64_t Rng::bits(std::uint64_t counter) const {
  const auto r = philox(seed_, stream_, counter);
  return (static_cast<std::uint64_t>(r[1]) << 32) | r[0];
}

double Rng::uniform(std::uint64_t counter) const {
  return static_cast<double>(bits(counter) >> 11) * 0x1p-53;
}

double Rng::normal(std::uint64_t counter) const {
  const auto [u, v] = uniform_pair(counter);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

std::uint64_t Rng::below(std::uint64_t counter, std::uint64_t bound) const {
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits(counter)) * bound) >> 64);
}

}  // namespace xmoe
