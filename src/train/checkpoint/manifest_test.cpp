#include "train/checkpoint/manifest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"
#include "base/hash.h"
#include "support/model_state.h"
#include "support/shard_elements.h"
#include "train/checkpoint/strict_json.h"

namespace xmoe {
namespace {

namespace fs = std::filesystem;

// A manifest whose checksum is right can still contradict itself.
class Manifest : public testing::Test {
 protected:
  Manifest() {
    manifest_.state_json = "{}";
    manifest_.shards = {{"a.safetensors", 1, 2}, {"b.safetensors", 3, 4}};
    entry().dtype = DType::bf16;
    entry().shape = {4, 6};
    entry().slices = {{0, {{0, 0}, {4, 2}}}, {1, {{0, 2}, {3, 4}}}, {1, {{3, 2}, {1, 4}}}};
  }
  CheckpointManifest::Entry& entry() { return manifest_.tensors["w"]; }
  Box& box(std::size_t slice) { return entry().slices[slice].box; }
  void expect_refused(const std::string& reason) const {
    try {
      parse_manifest(manifest_text(manifest_), "dir");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  }
  CheckpointManifest manifest_;
};

TEST_F(Manifest, RoundTrip) {
  const auto again = parse_manifest(manifest_text(manifest_), "dir");
  ASSERT_EQ(again.tensors.size(), 1U);
  const auto& found = again.tensors.at("w");
  EXPECT_EQ(found.dtype, DType::bf16);
  EXPECT_EQ(found.shape, (Shape{4, 6}));
  ASSERT_EQ(found.slices.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(found.slices[i].shard, entry().slices[i].shard);
    EXPECT_EQ(found.slices[i].box, box(i));
  }
  EXPECT_EQ(again.shards[1].file, "b.safetensors");
  EXPECT_EQ(again.shards[1].hash, 4U);
}

TEST_F(Manifest, RefusesHolesAndOverlaps) {
  box(1).extent[0] = 2;
  expect_refused("w: element [2, 2] is missing");
  box(1).extent[0] = 4;
  expect_refused("w: element [3, 2] is there several times");
  box(1) = {{0, 1}, {3, 5}};
  expect_refused("w: element [0, 1] is there several times");
  box(1) = {{0, 2}, {3, 5}};
  expect_refused("w[0:3,2:7] is no part of [4, 6]");
  box(1) = {{0, -2}, {3, 4}};
  expect_refused("is no part of");
  box(1) = {{0, 2}, {3, 4}};
  entry().slices[1].shard = 2;
  expect_refused("w: shard 2 of 2");
  entry().slices.clear();
  expect_refused("w: element [0, 0] is missing");
}

class SavedParts : public testing::Test {
 protected:
  SavedParts()
      : root_(fs::temp_directory_path() /
              fmt::format("xmoe-parts-{}-{}", ::getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name())),
        world_(make_self_communicator()),
        mesh_(*world_, 1) {}
  ~SavedParts() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  fs::path root_;
  std::unique_ptr<Communicator> world_;
  Mesh mesh_;
};

// What earlier versions of this program have written.
TEST_F(SavedParts, Version1IsStillRead) {
  test::ModelState state(0, 1, 1);
  save_checkpoint(root_, 1, state.tensors(), "{}", mesh_, {});
  const fs::path path = root_ / "iter_0000001" / kManifestFile;
  auto document = nlohmann::json::parse(read_text_file(path));
  EXPECT_EQ(document["version"], 2);
  const auto write = [&] {
    document.erase("xxh3");
    document["xxh3"] = fmt::format("{:016x}", hash64(document.dump()));
    std::ofstream(path, std::ios::trunc) << document.dump(1);
  };
  document["version"] = 1;
  for (auto& tensor : document["tensors"])
    for (auto& slice : tensor["slices"])
      slice = nlohmann::json::array({slice[0], slice[1][0], slice[2][0]});  // shard, first row, rows
  write();
  state.wipe();
  load_checkpoint(read_manifest(root_), state.tensors(), *world_);
  EXPECT_TRUE(state.is_filled());
  document["version"] = 3;
  write();
  try {
    read_manifest(root_);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("it has version 3, this program reads versions 1 and 2"),
              std::string::npos)
        << error.what();
  }
}

// Matrices cut along other axes than the first lie in memory with gaps.
TEST_F(SavedParts, PartsOfSeveralRangesRoundTrip) {
  const Shape global = {3, 8, 5};
  std::vector<std::int64_t> memory(60);
  CheckpointTensor half = {.name = "w",
                           .data = Tensor(memory.data(), DType::i64, {60}),
                           .global_shape = global,
                           .replication = Replication::expert,
                           .exclusive = true};
  half.sharding.axes[1] = {{0, 2}, {4, 2}};  // gate and up rows of one of two ranks
  CheckpointTensor other = half;
  std::vector<std::int64_t> other_memory(60);
  other.data = Tensor(other_memory.data(), DType::i64, {60});
  other.sharding.axes[1] = {{2, 2}, {6, 2}};
  for (std::int64_t i = 0; i < 60; ++i) {
    memory[static_cast<std::size_t>(i)] = global_index(global, half.sharding, i);
    other_memory[static_cast<std::size_t>(i)] = global_index(global, other.sharding, i);
  }
  const std::vector<CheckpointTensor> both = {half, other};
  save_checkpoint(root_, 1, both, "{}", mesh_, {});
  std::vector<std::int64_t> whole(120, -1);
  const std::vector<CheckpointTensor> destination = {
      {.name = "w", .data = Tensor(whole.data(), DType::i64, global), .global_shape = global}};
  load_checkpoint(read_manifest(root_), destination, *world_);
  for (std::int64_t i = 0; i < 120; ++i) ASSERT_EQ(whole[static_cast<std::size_t>(i)], i);
  std::fill(other_memory.begin(), other_memory.end(), -1);
  load_checkpoint(read_manifest(root_), std::vector<CheckpointTensor>{other}, *world_);
  for (std::int64_t i = 0; i < 60; ++i)
    ASSERT_EQ(other_memory[static_cast<std::size_t>(i)], global_index(global, other.sharding, i));
}

}  // namespace
}  // namespace xmoe
