#include "train/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "base/file.h"
#include "support/model_state.h"
#include "train/checkpoint/manifest.h"

namespace {
std::function<void(const std::filesystem::path&)> at_sync;  // what a test wants to know of each fsync()
}

// In the place of the library's, for this program: a test sees what is on the disk when, and in which order.
extern "C" int fsync(int descriptor) {
  if (at_sync) at_sync(std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", descriptor)));
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

namespace xmoe {
namespace {

namespace fs = std::filesystem;
using test::ModelState;

class Checkpoint : public testing::Test {
 protected:
  Checkpoint() : world_(make_self_communicator()), mesh_(*world_, 1) {
    // A death test runs its statement in a fresh process, which has to find the directory of the first.
    const char* given = std::getenv("XMOE_TEST_CHECKPOINT_ROOT");
    root_ = given != nullptr ? fs::path(given)
                             : fs::temp_directory_path() /
                                   fmt::format("xmoe-checkpoint-{}-{}", ::getpid(),
                                               testing::UnitTest::GetInstance()->current_test_info()->name());
    owner_ = given == nullptr;
    if (owner_) fs::remove_all(root_);
  }
  ~Checkpoint() override {
    std::error_code ignored;
    if (owner_ && !HasFailure()) fs::remove_all(root_, ignored);
  }

  void save(std::int64_t iteration, std::uint64_t seed, const SaveOptions& options = {}) const {
    ModelState state(0, 1, seed);
    save_checkpoint(root_, iteration, state.tensors(), R"({"iteration":)" + std::to_string(iteration) + "}",
                    mesh_, options);
  }
  // The message of the refusal, after a check that nothing was loaded; or "loaded".
  std::string try_load(const fs::path& path, std::uint64_t seed) const {
    ModelState state(0, 1, seed);
    state.wipe();
    try {
      load_checkpoint(read_manifest(path), state.tensors(), *world_);
    } catch (const Error& error) {
      EXPECT_TRUE(state.is_wiped());
      return error.what();
    }
    EXPECT_TRUE(state.is_filled());
    return "loaded";
  }
  void expect_refused(const fs::path& path, const std::string& reason) const {
    const std::string message = try_load(path, 1);
    EXPECT_NE(message.find(reason), std::string::npos) << message;
    EXPECT_NE(message.find(root_.string()), std::string::npos) << message;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(root_)) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
  static void damage(const fs::path& path, std::size_t position) {
    std::string content = read_text_file(path);
    content.at(position) = static_cast<char>(content.at(position) ^ 1);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  }

  fs::path root_;
  bool owner_ = true;
  std::unique_ptr<Communicator> world_;
  Mesh mesh_;
};

TEST_F(Checkpoint, RoundTrip) {
  EXPECT_EQ(find_checkpoint(root_), std::nullopt);
  save(100, 7);
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000100", "latest"}));
  EXPECT_EQ(find_checkpoint(root_), root_ / "iter_0000100");
  EXPECT_EQ(find_checkpoint(root_ / "iter_0000100"), root_ / "iter_0000100");
  const auto manifest = read_manifest(root_);
  EXPECT_EQ(manifest.iteration, 100);
  EXPECT_EQ(manifest.world_size, 1);
  EXPECT_EQ(manifest.state_json, R"({"iteration":100})");
  EXPECT_EQ(try_load(root_, 7), "loaded");
  EXPECT_EQ(try_load(root_ / "iter_0000100", 7), "loaded");
}

TEST_F(Checkpoint, StateKeepsEveryBitOfItsNumbers) {
  const std::string state =
      R"({"big":18446744073709551615,"small":5e-324,"text":"\"\\\n","third":0.3333333333333333})";
  ModelState tensors(0, 1, 1);
  save_checkpoint(root_, 1, tensors.tensors(), state, mesh_, {});
  EXPECT_EQ(read_manifest(root_).state_json, state);
}

TEST_F(Checkpoint, SavingAnIterationAgainReplacesIt) {
  save(5, 1);
  save(5, 2);
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000005", "latest"}));
  EXPECT_EQ(try_load(root_, 2), "loaded");
}

// On a file system that cannot exchange two names there is a moment at which the old checkpoint is set aside
// and the new one is not yet in its place.
TEST_F(Checkpoint, ReplacingWithoutExchangeLosesNothingWhenItIsKilled) {
  save(5, 1);
  const fs::path killed = root_ / "killed";
  SaveOptions options;
  options.exchange_names = false;
  // What is on the disk at that moment is what a killed run would leave.
  options.at_stage = [&](SaveStage stage) {
    if (stage != SaveStage::replaced_set_aside) return;
    fs::create_directory(killed);
    for (const auto& name : {".tmp-iter_0000005", ".tmp-replaced-iter_0000005", "latest"})
      fs::copy(root_ / name, killed / name, fs::copy_options::recursive);
  };
  save(5, 2, options);
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000005", "killed", "latest"}));
  EXPECT_EQ(try_load(root_, 2), "loaded");

  EXPECT_EQ(try_load(killed, 1), "loaded");
  // A next save that fails early takes nothing away, one that succeeds clears up.
  ModelState state(0, 1, 3);
  options.at_stage = [](SaveStage stage) {
    if (stage == SaveStage::begun) throw std::runtime_error("ended");
  };
  EXPECT_THROW(save_checkpoint(killed, 6, state.tensors(), "{}", mesh_, options), std::runtime_error);
  EXPECT_EQ(try_load(killed, 1), "loaded");
  save_checkpoint(killed, 6, state.tensors(), "{}", mesh_, {});
  EXPECT_EQ(try_load(killed / "iter_0000005", 1), "loaded");
  EXPECT_EQ(try_load(killed, 3), "loaded");
  for (const auto& entry : fs::directory_iterator(killed))
    EXPECT_FALSE(entry.path().filename().string().starts_with(kTemporaryPrefix)) << entry.path();
}

TEST_F(Checkpoint, AReplacementThatFailsPutsTheOldOneBack) {
  save(5, 1);
  SaveOptions options;
  options.exchange_names = false;
  options.at_stage = [](SaveStage stage) {
    if (stage == SaveStage::replaced_set_aside) throw std::runtime_error("no rename");
  };
  EXPECT_THROW(save(5, 2, options), Error);
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000005", "latest"}));
  EXPECT_EQ(try_load(root_, 1), "loaded");
}

TEST_F(Checkpoint, TheOldOneIsRemovedWhenTheNewNameIsOnTheDisk) {
  for (const bool exchange : {true, false}) {
    save(5, 1);
    std::vector<bool> old_exists;  // at each sync of the root: the new one, then `latest`
    at_sync = [&](const fs::path& path) {
      if (path != fs::canonical(root_)) return;
      old_exists.push_back(std::any_of(
          fs::directory_iterator(root_), fs::directory_iterator(),
          [](const auto& e) { return e.path().filename().string().starts_with(kTemporaryPrefix); }));
    };
    SaveOptions options;
    options.exchange_names = exchange;
    save(5, 2, options);
    at_sync = {};
    EXPECT_EQ(old_exists, (std::vector<bool>{true, false}));
    EXPECT_EQ(try_load(root_, 2), "loaded");
  }
}

TEST_F(Checkpoint, KeepsTheNewest) {
  for (std::int64_t i = 1; i <= 4; ++i) save(i, 1, {.keep_last = 2});
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000003", "iter_0000004", "latest"}));
  // Back to iteration 3 and on from there: what was written last stays, not what has the highest number.
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(1);
  fs::last_write_time(root_ / "iter_0000004" / kManifestFile, long_ago);
  fs::create_directories(root_ / "iter_notes");  // not ours
  save(2, 9, {.keep_last = 2});
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000002", "iter_0000003", "iter_notes", "latest"}));
  save(20000000, 9, {.keep_last = 1});
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_20000000", "iter_notes", "latest"}));
  EXPECT_EQ(try_load(root_, 9), "loaded");
}

TEST_F(Checkpoint, AKilledSaveLeavesAWholeCheckpoint) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ::setenv("XMOE_TEST_CHECKPOINT_ROOT", root_.c_str(), 1);
  if (owner_) save(1, 1);
  std::int64_t iteration = 2;
  std::int64_t safe = 1;
  for (const SaveStage stage : {SaveStage::begun, SaveStage::shard_written, SaveStage::manifest_written,
                                SaveStage::renamed, SaveStage::latest_replaced}) {
    SaveOptions options;
    options.keep_last = 3;
    options.at_stage = [&](SaveStage reached) {
      if (reached == stage) ::raise(SIGKILL);
    };
    EXPECT_EXIT(save(iteration, static_cast<std::uint64_t>(iteration), options),
                testing::KilledBySignal(SIGKILL), "");
    if (stage == SaveStage::latest_replaced) safe = iteration;
    EXPECT_EQ(read_manifest(root_).iteration, safe);
    EXPECT_EQ(try_load(root_, static_cast<std::uint64_t>(safe)), "loaded");
    ++iteration;
  }
  ::unsetenv("XMOE_TEST_CHECKPOINT_ROOT");
  // The next save clears away what the killed ones left.
  save(iteration, 3);
  for (const auto& name : names()) EXPECT_FALSE(name.starts_with(kTemporaryPrefix)) << name;
  EXPECT_EQ(try_load(root_, 3), "loaded");
}

TEST_F(Checkpoint, AFailedWriteLeavesThePreviousOne) {
  save(1, 1);
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 1000;  // less than the shard
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    save(2, 2);
  } catch (const Error& error) {
    message = error.what();
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  for (const char* part : {"iteration 2 was not saved", "File too large", "it needs", "free in",
                           "previous checkpoint stays", "iter_0000001"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000001", "latest"}));
  EXPECT_EQ(try_load(root_, 1), "loaded");
  save(2, 2);  // with room again
  EXPECT_EQ(try_load(root_, 2), "loaded");
}

TEST_F(Checkpoint, AFullDiskLeavesThePreviousOne) {
  fs::create_directories(root_);
  if (::mount("tmpfs", root_.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "mounting a small disk needs root";
  save(1, 1);
  std::string message;
  SaveOptions options;
  // Another program takes the space after the save has begun.
  options.at_stage = [&](SaveStage stage) {
    if (stage == SaveStage::begun) std::ofstream(root_ / "other") << std::string(100000, 'x');
  };
  try {
    save(2, 2, options);
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_EQ(names(), (std::vector<std::string>{"iter_0000001", "latest", "other"}));
  message.clear();
  try {
    save(2, 2);  // now the lack of space is seen beforehand
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_NE(message.find("too little space"), std::string::npos) << message;
  EXPECT_NE(message.find("previous checkpoint stays"), std::string::npos) << message;
  EXPECT_EQ(try_load(root_, 1), "loaded");
  fs::remove(root_ / "other");
  save(2, 2);
  EXPECT_EQ(try_load(root_, 2), "loaded");
  EXPECT_EQ(::umount2(root_.c_str(), MNT_DETACH), 0);
}

TEST_F(Checkpoint, DamagedShardsAreRefused) {
  save(1, 1);
  const fs::path shard = root_ / "iter_0000001" / "shard-00000-of-00001.safetensors";
  const std::string whole = read_text_file(shard);
  for (const std::size_t position : {std::size_t{0}, std::size_t{20}, whole.size() / 2, whole.size() - 1}) {
    damage(shard, position);
    expect_refused(root_, "checksum differs");
    damage(shard, position);  // undone
  }
  EXPECT_EQ(try_load(root_, 1), "loaded");
  fs::resize_file(shard, whole.size() - 1);
  expect_refused(root_, fmt::format("has {} bytes, the manifest says {}", whole.size() - 1, whole.size()));
  fs::remove(shard);
  expect_refused(root_, "shard-00000-of-00001.safetensors");
}

TEST_F(Checkpoint, DamagedManifestsAreRefused) {
  save(1, 1);
  const fs::path path = root_ / "iter_0000001" / kManifestFile;
  const std::string whole = read_text_file(path);
  for (std::size_t position = 0; position < whole.size(); position += 7) {
    if (whole[position] == ' ' || whole[position] == '\n') continue;  // may turn into other white space
    damage(path, position);
    expect_refused(root_, "manifest.json");
    damage(path, position);
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 3}) {
    std::ofstream(path, std::ios::trunc) << whole.substr(0, size);
    expect_refused(root_, "manifest.json");
  }
}

TEST_F(Checkpoint, LatestMustNameACheckpoint) {
  expect_refused(root_, "no checkpoint in");
  save(3, 1);
  std::ofstream(root_ / kLatestFile, std::ios::trunc) << "iter_0000009\n";
  expect_refused(root_, "load one of these by its own path: " + (root_ / "iter_0000003").string());
  std::ofstream(root_ / kLatestFile, std::ios::trunc) << "../elsewhere\n";
  expect_refused(root_, "not a checkpoint in");
  std::ofstream(root_ / kLatestFile, std::ios::trunc) << "";
  expect_refused(root_, "not a checkpoint in");
}

TEST_F(Checkpoint, AnotherModelIsRefusedWithEveryDifference) {
  save(1, 1);
  ModelState state(0, 1, 1);
  auto& tensors = state.tensors();
  ASSERT_EQ(tensors[0].name, "embedding.weight");
  tensors[0].data = tensors[0].data.reshape({3, 11});
  tensors[0].global_shape = {3, 11};
  tensors[1].name = "layers.0.other.weight";
  tensors.pop_back();  // "nothing"
  state.wipe();
  try {
    load_checkpoint(read_manifest(root_), tensors, *world_);
    ADD_FAILURE() << "loaded";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    for (const char* part :
         {"of another model", "embedding.weight: [11, 3] in the checkpoint, [3, 11] in the model",
          "layers.0.other.weight: not in the checkpoint",
          "layers.0.norm.weight: [5] in the checkpoint, not in the model",
          "nothing: [0, 4] in the checkpoint, not in the model"}) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    }
    // The moments of a parameter that is there are no difference of their own.
    EXPECT_EQ(message.find("embedding.weight.exp_avg:"), std::string::npos) << message;
  }
  EXPECT_TRUE(state.is_wiped());
}

TEST_F(Checkpoint, ParametersLoadWithoutTheirMoments) {
  save(1, 1);
  ModelState state(0, 1, 1);
  std::erase_if(state.tensors(), [](const auto& tensor) {
    return tensor.name.ends_with(kFirstMomentSuffix) || tensor.name.ends_with(kSecondMomentSuffix);
  });
  state.wipe();
  load_checkpoint(read_manifest(root_), state.tensors(), *world_);
  EXPECT_TRUE(state.is_filled());
}

TEST_F(Checkpoint, OneRankOfAnyLayoutReadsItsSlice) {
  save(1, 1);
  for (int rank = 0; rank < 4; ++rank) {
    ModelState state(rank, 4, 1);
    state.wipe();
    load_checkpoint(read_manifest(root_), state.tensors(), *world_);
    EXPECT_TRUE(state.is_filled()) << rank;
  }
}

TEST_F(Checkpoint, MissingRowsAreNotSaved) {
  ModelState state(0, 2, 1);  // half of the experts
  EXPECT_THROW(save_checkpoint(root_, 1, state.tensors(), "{}", mesh_, {}), Error);
  EXPECT_EQ(find_checkpoint(root_), std::nullopt);
}

TEST_F(Checkpoint, ARootThatIsNoDirectoryIsNamed) {
  std::ofstream(root_) << "a file";
  try {
    save(1, 1);
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(root_.string()), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace xmoe
