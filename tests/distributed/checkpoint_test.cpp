#include "train/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>

#include "base/file.h"
#include "distributed/support.h"
#include "support/model_state.h"

namespace xmoe {
namespace {

namespace fs = std::filesystem;
using distributed::SharedDirectory;
using distributed::world;
using test::ModelState;

std::string load_message(const fs::path& root, ModelState& state) {
  try {
    load_checkpoint(read_manifest(root), state.tensors(), world());
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    return error.what();
  }
  return "loaded";
}

TEST(Checkpoint, EveryLayoutLoadsFromEveryLayout) {
  for (int saved = 1; saved <= world().size(); saved *= 2) {
    const SharedDirectory root;
    const Mesh mesh(world(), saved);
    ModelState state(mesh.ep().rank(), saved, 42);
    save_checkpoint(root.path(), saved, state.tensors(), "{}", mesh, {});
    EXPECT_EQ(read_manifest(root.path()).world_size, world().size());
    for (int loaded = 1; loaded <= world().size(); loaded *= 2) {
      ModelState other(world().rank() % loaded, loaded, 42);
      other.wipe();
      EXPECT_EQ(load_message(root.path(), other), "loaded");
      EXPECT_TRUE(other.is_filled()) << "saved by EP " << saved << ", loaded by EP " << loaded;
    }
    // And by a single process, whatever the world was.
    const auto alone = make_self_communicator();
    for (const int loaded : {1, 8}) {
      ModelState other(loaded - 1, loaded, 42);
      other.wipe();
      load_checkpoint(read_manifest(root.path()), other.tensors(), *alone);
      EXPECT_TRUE(other.is_filled());
    }
    world().barrier();
  }
}

TEST(Checkpoint, EveryTensorIsWrittenOnceAndTheWorkIsSpread) {
  const SharedDirectory root;
  const Mesh mesh(world(), 1);
  ModelState state(0, 1, 1);
  save_checkpoint(root.path(), 1, state.tensors(), "{}", mesh, {});
  const auto manifest = read_manifest(root.path());
  ASSERT_EQ(manifest.shards.size(), static_cast<std::size_t>(world().size()));
  std::vector<int> tensors_in(manifest.shards.size(), 0);
  for (const auto& [name, entry] : manifest.tensors) {
    EXPECT_EQ(entry.slices.size(), entry.shape.numel() > 0 ? 1U : 0U) << name;
    for (const auto& slice : entry.slices) ++tensors_in.at(slice.shard);
  }
  if (world().size() <= 4) {  // there are fewer large tensors than eight ranks
    for (const int count : tensors_in) EXPECT_GT(count, 0);
  }
  std::uint64_t payload = 0;
  for (const auto& tensor : state.tensors()) payload += tensor.data.bytes();
  std::uint64_t written = 0;
  for (const auto& shard : manifest.shards) written += shard.bytes;
  EXPECT_GE(written, payload);
  EXPECT_LT(written, payload + 4096 * manifest.shards.size());  // headers
}

TEST(Checkpoint, AWriteThatFailsOnOneRankFailsOnAllAndTrainingCanGoOn) {
  const SharedDirectory root;
  const Mesh mesh(world(), world().size());
  const int culprit = world().size() - 1;
  ModelState state(mesh.ep().rank(), mesh.ep().size(), 1);
  save_checkpoint(root.path(), 1, state.tensors(), "{}", mesh, {});
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  if (world().rank() == culprit) {
    struct rlimit small = before;
    small.rlim_cur = 16;
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  }
  std::string message = "saved";
  try {
    save_checkpoint(root.path(), 2, state.tensors(), "{}", mesh, {});
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    message = error.what();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  const auto messages = world().all_gather_text(message);
  for (const auto& other : messages) EXPECT_EQ(other, message);
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_NE(message.find("previous checkpoint stays"), std::string::npos) << message;
  if (world().size() > 1) {
    EXPECT_NE(message.find(fmt::format("rank {}:", culprit)), std::string::npos) << message;
  }
  EXPECT_EQ(read_manifest(root.path()).iteration, 1);
  state.wipe();
  EXPECT_EQ(load_message(root.path(), state), "loaded");
  EXPECT_TRUE(state.is_filled());
  save_checkpoint(root.path(), 2, state.tensors(), "{}", mesh, {});
  EXPECT_EQ(read_manifest(root.path()).iteration, 2);
}

TEST(Checkpoint, DamageInOneShardIsSeenByAllRanks) {
  const SharedDirectory root;
  const Mesh mesh(world(), 1);
  ModelState state(0, 1, 5);
  save_checkpoint(root.path(), 1, state.tensors(), "{}", mesh, {});
  const auto manifest = read_manifest(root.path());
  const auto& shard = manifest.shards.back();
  if (world().rank() == 0) {
    std::string content = read_text_file(manifest.directory / shard.file);
    content.back() = static_cast<char>(content.back() ^ 4);
    std::ofstream(manifest.directory / shard.file, std::ios::binary | std::ios::trunc) << content;
  }
  world().barrier();
  state.wipe();
  const std::string message = load_message(root.path(), state);
  EXPECT_NE(message.find(shard.file), std::string::npos) << message;
  EXPECT_NE(message.find("checksum"), std::string::npos) << message;
  EXPECT_TRUE(state.is_wiped());
}

}  // namespace
}  // namespace xmoe
