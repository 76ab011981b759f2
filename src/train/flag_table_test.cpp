#include "train/flag_table.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace xmoe {
namespace {

struct Settings {
  std::int64_t layers = 2;
  double rate = 0.5;
  std::optional<double> factor;
  std::filesystem::path folder;
  bool tied = true;
  DecayStyle style = DecayStyle::linear;
};

FlagTable table_of(Settings& settings) {
  FlagTable table;
  table.group("Some Model");
  table.integer("num-layers|layers", settings.layers, "Layers", at_least(1));
  table.real("rate", settings.rate, "Rate", from_up_to(0, 1));
  table.real("factor", settings.factor, "Factor", above(0));
  table.path("folder", settings.folder, "DIR", "Folder");
  table.set("untie", settings.tied, false, "Untie");
  table.set("tie", settings.tied, true, "Tie", false);
  table.choice("style", settings.style, {{"linear", DecayStyle::linear}, {"cosine", DecayStyle::cosine}},
               "Style");
  table.satisfied("use-fast", Arity::none, "always fast");
  table.only("parallel", {"1"}, "not built yet");
  table.refused("half", Arity::none, "not built yet; use --rate");
  table.conflict("untie", "tie");
  table.conflict("untie", "style", "cosine");
  return table;
}

std::string problems_of(const FlagTable& table) {
  std::string text;
  for (const Problem& problem : table.problems()) text += problem.flag + " " + problem.message + ";";
  return text;
}

TEST(FlagTable, SetsFieldsByEveryName) {
  Settings settings;
  FlagTable table = table_of(settings);
  table.assign("layers", {"7"}, kCommandLine);
  table.assign("rate", {"2.5e-1"}, kCommandLine);
  table.assign("factor", {"1.25"}, kCommandLine);
  table.assign("folder", {"a b"}, kCommandLine);
  table.assign("untie", {"true"}, kCommandLine);
  table.assign("style", {"linear"}, kCommandLine);
  table.assign("use-fast", {"true"}, kCommandLine);
  table.assign("parallel", {"1"}, kCommandLine);
  EXPECT_EQ(problems_of(table), "");
  EXPECT_EQ(settings.layers, 7);
  EXPECT_EQ(settings.rate, 0.25);
  EXPECT_EQ(settings.factor, 1.25);
  EXPECT_EQ(settings.folder, "a b");
  EXPECT_FALSE(settings.tied);
  table.assign("untie", {"false"}, kCommandLine);
  EXPECT_TRUE(settings.tied);
}

TEST(FlagTable, CollectsWhatIsWrong) {
  Settings settings;
  FlagTable table = table_of(settings);
  table.assign("num-layers", {"two"}, kCommandLine);
  table.assign("num-layers", {"0"}, kCommandLine);
  table.assign("num-layers", {"1", "2"}, kCommandLine);
  table.assign("num-layers", {"99999999999999999999"}, kCommandLine);
  table.assign("rate", {"1"}, "a.toml");
  table.assign("rate", {"nan"}, kCommandLine);
  table.assign("factor", {"0"}, kCommandLine);
  table.assign("style", {"square"}, kCommandLine);
  table.assign("parallel", {"2"}, kCommandLine);
  table.assign("half", {"true"}, kCommandLine);
  table.assign("num-layer", {"2"}, kCommandLine);
  table.assign("zzzzzz", {"2"}, kCommandLine);
  table.assign("untie", {"maybe"}, kCommandLine);
  EXPECT_EQ(problems_of(table),
            "num-layers 'two' is not an integer;"
            "num-layers 0 is out of range: expected at least 1;"
            "num-layers has 2 values: expected one;"
            "num-layers '99999999999999999999' is not an integer;"
            "rate 1 is out of range: expected at least 0 and below 1 (a.toml);"
            "rate 'nan' is not a number;"
            "factor 0 is out of range: expected above 0;"
            "style 'square' is not known: expected one of linear|cosine;"
            "parallel '2' is not possible (not built yet): use 1 or leave the flag out;"
            "half is refused: not built yet; use --rate;"
            "num-layer is not known: did you mean --num-layers?;"
            "zzzzzz is not known: see --help;"
            "untie 'maybe' is not possible: expected true or false;");
  EXPECT_THROW(fail_if_any(table.problems()), Error);
}

TEST(FlagTable, FindsContradictionsWithinOneSource) {
  Settings settings;
  FlagTable table = table_of(settings);
  table.assign("untie", {"true"}, "a.toml");
  table.assign("tie", {"true"}, kCommandLine);  // overrides the file
  EXPECT_EQ(problems_of(table), "");
  EXPECT_TRUE(settings.tied);
  table.assign("untie", {"true"}, kCommandLine);
  table.assign("style", {"linear"}, kCommandLine);
  EXPECT_EQ(problems_of(table), "untie contradicts --tie: give one of them;");
  table.assign("tie", {"false"}, kCommandLine);
  table.assign("style", {"cosine"}, kCommandLine);
  EXPECT_EQ(problems_of(table), "untie contradicts --style cosine: give one of them;");
}

TEST(FlagTable, LeavesOutFollowUpProblems) {
  Settings settings;
  FlagTable table = table_of(settings);
  table.assign("layers", {"x"}, kCommandLine);
  const std::vector<Problem> all = table.problems_with({{"num-layers", "is missing"}, {"rate", "is odd"}});
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].flag, "layers");
  EXPECT_EQ(all[1].flag, "rate");
}

TEST(FlagTable, TomlReadsBack) {
  Settings settings;
  FlagTable table = table_of(settings);
  table.assign_text("[any]\nnum_layers = 3\nuntie = true\nfolder = \"a \\\"b\\\"\"\n", "x.toml");
  EXPECT_EQ(problems_of(table), "");
  const std::string toml = table.to_toml();
  EXPECT_EQ(toml,
            "[some-model]\nnum-layers = 3\nrate = 0.5\nfolder = \"a \\\"b\\\"\"\nuntie = true\nstyle = "
            "\"linear\"\n");
  Settings again;
  FlagTable other = table_of(again);
  other.assign_text(toml, "y.toml");
  EXPECT_EQ(problems_of(other), "");
  EXPECT_EQ(other.to_toml(), toml);
}

TEST(FlagTable, RefusesUnknownAndRepeatedKeysOfFiles) {
  Settings settings;
  FlagTable table = table_of(settings);
  table.assign_text("rate = 0.1\nrate = 0.2\nstile = 'linear'\n", "x.toml");
  EXPECT_EQ(
      problems_of(table),
      "rate is set twice: keep one (x.toml, line 2);stile is not known: did you mean --style? (x.toml);");
}

TEST(FlagTable, NearestName) {
  const std::vector<std::string> names = {"num-layers", "num-experts", "lr"};
  EXPECT_EQ(nearest_name("num-expert", names), "num-experts");
  EXPECT_EQ(nearest_name("numlayers", names), "num-layers");
  EXPECT_EQ(nearest_name("l", names), "lr");
  EXPECT_EQ(nearest_name("completely-else", names), "");
  EXPECT_EQ(nearest_name("", {}), "");
}

}  // namespace
}  // namespace xmoe
