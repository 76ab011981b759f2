// Steps that fail on some ranks and have to be given up by all.
#include "train/together.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>

#include "distributed/support.h"
#include "train/flag_table.h"

namespace xmoe {
namespace {

using distributed::world;

std::string error_of(const std::function<void()>& step) {
  try {
    together(world(), step);
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    return error.what();
  }
  return {};
}

TEST(Together, SucceedsWhenAllDo) {
  EXPECT_EQ(error_of([] {}), "");
}

TEST(Together, WhatAllSayIsSaidOnce) {
  EXPECT_EQ(error_of([] { fail("no disk"); }), "no disk");
}

TEST(Together, OneRankFailsForAll) {
  const int last = world().size() - 1;
  const std::string error = error_of([last] {
    if (world().rank() == last) fail("no disk");
  });
  EXPECT_EQ(error, last == 0 ? "no disk" : fmt::format("rank {}: no disk", last));
}

TEST(Together, NamesTheRanksOfEveryMessage) {
  if (world().size() < 4) GTEST_SKIP() << "needs four ranks";
  const std::string error = error_of([] {
    if (world().rank() == 0) fail("a");
    if (world().rank() < 3) fail("b");
  });
  EXPECT_EQ(error, "rank 0: a\nrank 1-2: b");
}

TEST(Together, ErrorsOfFilesAreMessagesForTheUser) {
  const std::string error = error_of([] { std::filesystem::create_directory("/proc/self/status/folder"); });
  EXPECT_EQ(error.find("/proc/self/status/folder: Not a directory: "), 0U) << error;
}

TEST(Together, ProblemsOfSettingsReachAllRanks) {
  const int last = world().size() - 1;
  const std::string error = error_of([last] {
    if (world().rank() == last) fail_if_any({{"data-path", "is missing"}});
  });
  EXPECT_NE(error.find("--data-path is missing"), std::string::npos) << error;
}

TEST(Together, AnEmptyValueDiffersFromAnother) {
  const auto compare = [](const std::string& value) -> std::string {
    try {
      expect_same(world(), "the text", value, "Do something");
    } catch (const Error& error) {
      EXPECT_EQ(error.scope(), ErrorScope::every_rank);
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(compare("a"), "");
  EXPECT_EQ(compare(""), "");
  if (world().size() != 2) GTEST_SKIP() << "the message is that of two ranks";
  EXPECT_EQ(compare(world().rank() == 0 ? "" : "b"),
            "the text must be the same on all ranks:\n  rank 0: \n  rank 1: b\nDo something");
}

}  // namespace
}  // namespace xmoe
