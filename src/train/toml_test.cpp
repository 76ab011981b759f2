#include "train/toml.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace xmoe {
namespace {

using Values = std::vector<std::string>;

std::string error_of(std::string_view text) {
  try {
    parse_toml(text, "run.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Toml, ReadsSettings) {
  const auto settings = parse_toml(
      "# a comment\n"
      "lr = 1.2e-4 # behind a value\r\n"
      "\n"
      "[model]\n"
      "num-layers = 2_000\n"
      "  swiglu=true\n"
      "[a . \"b c\"]\n"
      "'save' = \"run#1 \\\"x\\\" \\\\ \\t\"\n"
      "load = 'C:\\n'\n"
      "data-path = [0.3, 'a', # the first\n"
      "  +0.7, \"b\",\n"
      "]\n"
      "none = []",
      "run.toml");
  ASSERT_EQ(settings.size(), 7U);
  EXPECT_EQ(settings[0].key, "lr");
  EXPECT_EQ(settings[0].table, "");
  EXPECT_EQ(settings[0].values, Values{"1.2e-4"});
  EXPECT_EQ(settings[0].line, 2);
  EXPECT_EQ(settings[1].table, "model");
  EXPECT_EQ(settings[1].values, Values{"2000"});
  EXPECT_EQ(settings[2].values, Values{"true"});
  EXPECT_EQ(settings[3].table, "a.b c");
  EXPECT_EQ(settings[3].key, "save");
  EXPECT_EQ(settings[3].values, Values{"run#1 \"x\" \\ \t"});
  EXPECT_EQ(settings[4].values, Values{"C:\\n"});
  EXPECT_EQ(settings[5].values, (Values{"0.3", "a", "0.7", "b"}));
  EXPECT_EQ(settings[5].line, 10);
  EXPECT_TRUE(settings[6].values.empty());
  EXPECT_TRUE(parse_toml("", "empty").empty());
  EXPECT_TRUE(parse_toml("# only this", "comment").empty());
}

TEST(Toml, NamesTheLineOfWhatIsWrong) {
  EXPECT_NE(error_of("a = 1\nb = text\n").find("run.toml: line 2: 'text' is not a value"), std::string::npos);
  EXPECT_NE(error_of("a = \"open\n").find("line 1: the text has no closing quote"), std::string::npos);
  EXPECT_NE(error_of("a = [1,\n2").find("line 2: the array has no ']'"), std::string::npos);
  EXPECT_NE(error_of("a = [1 2]").find("expected ',' or ']'"), std::string::npos);
  EXPECT_NE(error_of("a = 1 2").find("unexpected '2' behind the value"), std::string::npos);
  EXPECT_NE(error_of("a 1").find("expected '=' behind 'a'"), std::string::npos);
  EXPECT_NE(error_of("= 1").find("expected a name"), std::string::npos);
  EXPECT_NE(error_of("a =").find("the value is missing"), std::string::npos);
  EXPECT_NE(error_of("a = # none\n").find("the value is missing"), std::string::npos);
  EXPECT_NE(error_of("a = ?").find("'?' is not a value"), std::string::npos);
  EXPECT_NE(error_of("[a\nb = 1").find("expected ']'"), std::string::npos);
  EXPECT_NE(error_of("[[a]]").find("arrays of tables"), std::string::npos);
  EXPECT_NE(error_of("a = \"\"\"x\"\"\"").find("several lines"), std::string::npos);
  EXPECT_NE(error_of("a = \"\\q\"").find("'\\q' is not known"), std::string::npos);
}

}  // namespace
}  // namespace xmoe
