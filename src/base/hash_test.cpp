#include "base/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace xmoe {
namespace {

// Checksums are written to files: they must be the published function's, on any machine.
TEST(Hash, IsXxh3) { EXPECT_EQ(hash64(""), 0x2d06800538d394c2U); }

TEST(Hash, EveryByteAndTheSeedCount) {
  std::string text(1000, 'a');
  const auto first = hash64(text);
  EXPECT_EQ(hash64(text.data(), text.size()), first);
  EXPECT_NE(hash64(text, 1), first);
  for (const std::size_t i : {std::size_t{0}, std::size_t{500}, std::size_t{999}}) {
    text[i] = 'b';
    EXPECT_NE(hash64(text), first);
    text[i] = 'a';
  }
  EXPECT_EQ(hash64(text), first);
}

}  // namespace
}  // namespace xmoe
