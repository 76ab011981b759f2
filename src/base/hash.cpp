#include "base/hash.h"

#include <xxhash.h>

#include "base/error.h"

namespace xmoe {

std::uint64_t hash64(const void* data, std::size_t bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

StreamHash64::StreamHash64() : state_(XXH3_createState()) {
  XMOE_CHECK(state_ != nullptr, "no memory for the state of a hash");
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}

StreamHash64::~StreamHash64() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void StreamHash64::update(const void* data, std::size_t bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), data, bytes);
}

std::uint64_t StreamHash64::digest() const {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_));
}

}  // namespace xmoe
