#include "data/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "base/rng.h"

namespace xmoe {
namespace {

using Pieces = std::vector<std::string>;
constexpr std::array kKinds{PreTokenizerKind::gpt2, PreTokenizerKind::qwen, PreTokenizerKind::llama3};

Pieces pieces_of(PreTokenizerKind kind, std::string_view text) {
  static const std::array kCompiled{PreTokenizer(kKinds[0]), PreTokenizer(kKinds[1]),
                                    PreTokenizer(kKinds[2])};
  PieceFinder finder(kCompiled[static_cast<std::size_t>(kind)]);
  finder.start(text);
  Pieces pieces;
  std::string_view piece;
  while (finder.next(piece)) pieces.emplace_back(piece);
  return pieces;
}

TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(pieces_of(PreTokenizerKind::gpt2, "Hello world's end,  12345 \n\n x"),
            (Pieces{"Hello", " world", "'s", " end", ",", " ", " 12345", " \n\n", " x"}));
  EXPECT_EQ(pieces_of(PreTokenizerKind::gpt2, "don'T"), (Pieces{"don", "'", "T"}));
  EXPECT_EQ(pieces_of(PreTokenizerKind::gpt2, "trailing  "), (Pieces{"trailing", "  "}));
}

TEST(PreTokenizer, Qwen) {
  EXPECT_EQ(pieces_of(PreTokenizerKind::qwen, "Hello (world)'S 123!\n\nx"),
            (Pieces{"Hello", " (", "world", ")'", "S", " ", "1", "2", "3", "!\n\n", "x"}));
  EXPECT_EQ(pieces_of(PreTokenizerKind::qwen, "it'S a"), (Pieces{"it", "'S", " a"}));
}

TEST(PreTokenizer, Llama3) {
  EXPECT_EQ(pieces_of(PreTokenizerKind::llama3, "pi 3.14159265"),
            (Pieces{"pi", " ", "3", ".", "141", "592", "65"}));
}

TEST(PreTokenizer, UnicodeLettersDigitsAndSpaces) {
  EXPECT_EQ(pieces_of(PreTokenizerKind::gpt2, "na\u00efve \u4e2d\u6587\u3000\u0663\u0664"),
            (Pieces{"na\u00efve", " \u4e2d\u6587", "\u3000", "\u0663\u0664"}));
  // U+180E is no white space since Unicode 6.3, U+0085 is.
  EXPECT_EQ(pieces_of(PreTokenizerKind::gpt2, "a\u180e!"), (Pieces{"a", "\u180e!"}));
  EXPECT_EQ(pieces_of(PreTokenizerKind::gpt2, "a\u0085!"), (Pieces{"a", "\u0085", "!"}));
}

TEST(PreTokenizer, BytesThatAreNoUtf8AreTheirOwnPieces) {
  for (const auto kind : kKinds) {
    EXPECT_EQ(pieces_of(kind, "ab\xff\xfe cd\xc3"), (Pieces{"ab", "\xff", "\xfe", " cd", "\xc3"}));
    // White space before such a byte ends as at the end of a text.
    EXPECT_EQ(pieces_of(kind, "a  \x80"), (Pieces{"a", "  ", "\x80"}));
  }
}

TEST(PreTokenizer, EmptyText) {
  for (const auto kind : kKinds) EXPECT_TRUE(pieces_of(kind, "").empty());
}

TEST(PreTokenizer, LongRunsOfOneKind) {
  constexpr std::size_t kLength = 300'000;  // far past the matcher's first stack
  for (const auto kind : kKinds) {
    EXPECT_EQ(pieces_of(kind, std::string(kLength, ' ')).size(), 1U);
    EXPECT_EQ(pieces_of(kind, std::string(kLength, 'a')).size(), 1U);
    EXPECT_EQ(pieces_of(kind, std::string(kLength, '-')).size(), 1U);
  }
}

TEST(PreTokenizer, NamesAndPatternsAreRecognised) {
  for (const auto kind : kKinds) {
    EXPECT_EQ(pre_tokenizer_named(name_of(kind)), kind);
    EXPECT_EQ(pre_tokenizer_with_pattern(pattern_of(kind)), kind);
  }
  EXPECT_EQ(pre_tokenizer_named("bert"), std::nullopt);
  EXPECT_EQ(pre_tokenizer_with_pattern("\\s+"), std::nullopt);
}

// The pieces of random text joined are the text, and cutting at any safe place changes none of them.
TEST(SafeCut, KeepsThePieces) {
  const std::vector<std::string> alphabet{
      "a",  "b", "Z",   "'s",   " ",    " ", "  ", "\n",     "\r\n",   "\t",     "'",      "1",
      "23", ",", "!\n", "\xc3", "\xff", "-", ".",  "\u00e9", "\u4e2d", "\u3000", "\u0301", "\u180e"};
  for (const auto kind : kKinds) {
    for (std::uint64_t round = 0; round < 200; ++round) {
      const Rng rng(round, "text");
      std::string text;
      for (std::uint64_t i = 0; i < 40; ++i) text += alphabet[rng.below(i, alphabet.size())];
      const Pieces whole = pieces_of(kind, text);
      std::string joined;
      for (const auto& piece : whole) joined += piece;
      ASSERT_EQ(joined, text);
      for (std::size_t wanted = 1; wanted < text.size(); ++wanted) {
        const std::size_t cut = safe_cut(text, wanted);
        ASSERT_GE(cut, wanted);
        Pieces parts = pieces_of(kind, std::string_view(text).substr(0, cut));
        const Pieces rest = pieces_of(kind, std::string_view(text).substr(cut));
        parts.insert(parts.end(), rest.begin(), rest.end());
        ASSERT_EQ(parts, whole) << name_of(kind) << " cut at " << cut << " of " << text;
      }
    }
  }
}

}  // namespace
}  // namespace xmoe
