#include "data/tokenizer/byte_level.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace xmoe {
namespace {

TEST(ByteLevel, MapsSpaceNewlineAndLetters) {
  EXPECT_EQ(to_byte_level(" a\n"), "\u0120a\u010a");
  EXPECT_EQ(to_byte_level(std::string(1, '\0')), "\u0100");
  EXPECT_EQ(to_byte_level("\xad"), "\u0143");  // the last of the 68
  EXPECT_EQ(to_byte_level("\xff"), "\u00ff");
}

TEST(ByteLevel, EveryByteHasItsOwnCharacterAndComesBack) {
  std::set<std::string> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    const std::string printed = to_byte_level(bytes);
    EXPECT_TRUE(seen.insert(printed).second) << byte;
    EXPECT_EQ(from_byte_level(printed), bytes) << byte;
  }
}

TEST(ByteLevel, RefusesCharactersThatStandForNoByte) {
  EXPECT_EQ(from_byte_level(" "), std::nullopt);
  EXPECT_EQ(from_byte_level("\u0144"), std::nullopt);
  EXPECT_EQ(from_byte_level("a\u4e2d"), std::nullopt);
  EXPECT_EQ(from_byte_level("\xc4"), std::nullopt);  // cut short
}

TEST(ValidUtf8Prefix, StopsAtWhatIsNotWellFormed) {
  EXPECT_EQ(valid_utf8_prefix(""), 0U);
  EXPECT_EQ(valid_utf8_prefix("plain text of more than eight bytes"), 35U);
  EXPECT_EQ(valid_utf8_prefix("a\u00e9\u4e2d\U0001f600z"), 11U);
  EXPECT_EQ(valid_utf8_prefix("ab\x80"), 2U);
  EXPECT_EQ(valid_utf8_prefix("ab\xc0\xaf"), 2U);        // overlong
  EXPECT_EQ(valid_utf8_prefix("\xe0\x9f\xbf"), 0U);      // overlong
  EXPECT_EQ(valid_utf8_prefix("\xed\xa0\x80"), 0U);      // surrogate
  EXPECT_EQ(valid_utf8_prefix("\xf4\x90\x80\x80"), 0U);  // past U+10FFFF
  EXPECT_EQ(valid_utf8_prefix("\xf4\x8f\xbf\xbf"), 4U);  // U+10FFFF
  EXPECT_EQ(valid_utf8_prefix("12345678\xe4\xb8"), 8U);  // cut short
}

}  // namespace
}  // namespace xmoe
