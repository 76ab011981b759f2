// Counter-based random numbers (Philox4x32-10; Salmon et al., SC'11): the value at a counter is a pure
// function of (seed, stream, counter), so results depend neither on the number of ranks nor on the order of
// evaluation.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace xmoe {

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t stream, std::uint64_t counter);

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
