#include <fcntl.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>  // renameat2
#include <numeric>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "comm/pending.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/manifest.h"
#include "train/checkpoint/safetensors.h"

namespace xmoe {

namespace {

namespace fs = std::filesystem;

// A write beyond a limit on file sizes (ulimit -f) is to be an error that is reported, not the end of the
// process.
class IgnoreFileSizeSignal {
 public:
  IgnoreFileSizeSignal() {
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGXFSZ, &ignore, &before_);
  }
  ~IgnoreFileSizeSignal() { ::sigaction(SIGXFSZ, &before_, nullptr); }
  IgnoreFileSizeSignal(const IgnoreFileSizeSignal&) = delete;
  IgnoreFileSizeSignal& operator=(const IgnoreFileSizeSignal&) = delete;

 private:
  struct sigaction before_ {};
};

// Which tensors this rank writes: of those that no other rank holds its own part; of the others, each exists
// on all ranks of a group and goes, the largest first, to the one with the least to write of that group's.
std::vector<std::size_t> tensors_to_write(std::span<const CheckpointTensor> tensors, const Mesh& mesh) {
  std::vector<std::size_t> mine;
  std::array<std::vector<std::size_t>, kReplications> shared;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].exclusive) {
      mine.push_back(i);
    } else {
      shared[static_cast<std::size_t>(tensors[i].replication)].push_back(i);
    }
  }
  for (std::size_t r = 0; r < shared.size(); ++r) {
    std::stable_sort(shared[r].begin(), shared[r].end(),
                     [&](auto a, auto b) { return tensors[a].stored_bytes() > tensors[b].stored_bytes(); });
    const Communicator& group = replicas(mesh, static_cast<Replication>(r));
    std::vector<std::size_t> load(static_cast<std::size_t>(group.size()), 0);
    for (const auto i : shared[r]) {
      const auto lightest = std::min_element(load.begin(), load.end());
      *lightest += tensors[i].stored_bytes();
      if (lightest - load.begin() == group.rank()) mine.push_back(i);
    }
  }
  std::sort(mine.begin(), mine.end());
  return mine;
}

class Save {
 public:
  Save(const fs::path& root, std::int64_t iteration, const Mesh& mesh, const SaveOptions& options)
      : root_(root),
        name_(checkpoint_name(iteration)),
        temporary_(root / (kTemporaryPrefix + name_)),
        mesh_(mesh),
        world_(mesh.world()),
        options_(options),
        iteration_(iteration) {}

  void run(std::span<const CheckpointTensor> tensors, const std::string& state_json);

 private:
  bool first() const { return world_.rank() == 0; }
  void stage(SaveStage stage) const {
    if (options_.at_stage) options_.at_stage(stage);
  }
  // Runs a step here and, if it failed on any rank, cleans up and throws on all.
  template <typename F>
  void step(F&& f);
  [[noreturn]] void give_up(const std::string& reason);

  void restore_replaced() const;
  void prepare_directory() const;
  CheckpointManifest write_shard(std::span<const CheckpointTensor> tensors,
                                 const std::vector<std::size_t>& mine) const;
  void publish() const;
  void remove_old() const;

  fs::path root_;
  std::string name_;
  fs::path temporary_;
  const Mesh& mesh_;
  Communicator& world_;
  const SaveOptions& options_;
  std::int64_t iteration_;
  std::uint64_t needed_ = 0;  // bytes of all ranks
};

template <typename F>
void Save::step(F&& f) {
  std::string error;
  try {
    f();
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  const auto errors = world_.all_gather_text(error);
  for (std::size_t r = 0; r < errors.size(); ++r) {
    if (!errors[r].empty()) give_up(errors.size() > 1 ? fmt::format("rank {}: {}", r, errors[r]) : errors[r]);
  }
}

void Save::give_up(const std::string& reason) {
  std::string message;
  if (first()) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
    std::string previous = "there is no earlier one";
    try {
      if (fs::is_directory(root_)) restore_replaced();
      if (const auto found = find_checkpoint(root_)) {
        previous = fmt::format("the previous checkpoint stays: {}", found->string());
      }
    } catch (const std::exception& error) {
      previous = error.what();
    }
    std::error_code unknown;
    const auto space = fs::space(root_, unknown);
    message =
        fmt::format("the checkpoint of iteration {} was not saved: {}; it needs {}, {} free in {}; {}",
                    iteration_, reason, format_bytes(needed_),
                    unknown ? "unknown how much is" : fmt::format("{} are", format_bytes(space.available)),
                    root_.string(), previous);
  }
  throw Error(world_.all_gather_text(message).front(), ErrorScope::every_rank);
}

// Puts back what a save that replaced a checkpoint had set aside when it was ended before the new one stood
// in its place.
void Save::restore_replaced() const {
  for (const auto& entry : fs::directory_iterator(root_)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kReplacedPrefix)) continue;
    const fs::path target = root_ / name.substr(std::string(kReplacedPrefix).size());
    if (!fs::exists(target)) fs::rename(entry.path(), target);
  }
}

void Save::prepare_directory() const {
  fs::create_directories(root_);
  restore_replaced();
  for (const auto& entry : fs::directory_iterator(root_)) {
    if (entry.path().filename().string().starts_with(kTemporaryPrefix)) fs::remove_all(entry.path());
  }
  std::error_code unknown;
  const auto space = fs::space(root_, unknown);
  if (!unknown && space.available < needed_) fail("too little space in {}", root_.string());
  fs::create_directory(temporary_);
}

CheckpointManifest Save::write_shard(std::span<const CheckpointTensor> tensors,
                                     const std::vector<std::size_t>& mine) const {
  const IgnoreFileSizeSignal guard;
  CheckpointManifest part;
  std::vector<SafetensorsItem> items;
  for (const auto i : mine) {
    const auto& tensor = tensors[i];
    auto& entry =
        part.tensors
            .try_emplace(tensor.name,
                         CheckpointManifest::Entry{stored_dtype(tensor.held()), tensor.global_shape, {}})
            .first->second;
    for (const auto& placed : boxes_of_run(tensor.global_shape, tensor.sharding, tensor.begin,
                                           tensor.begin + tensor.data.numel())) {
      items.push_back({name_of_box(tensor.name, placed.box, tensor.global_shape), tensor.held(), placed});
      entry.slices.push_back({0, placed.box});
    }
  }
  const std::string file = fmt::format("shard-{:05d}-of-{:05d}.safetensors", world_.rank(), world_.size());
  const WrittenFile written = write_safetensors(temporary_ / file, items, {{"format", "xmoe"}});
  part.shards.push_back({file, written.bytes, written.hash});
  return part;
}

void Save::publish() const {
  sync_directory(temporary_);
  const fs::path target = root_ / name_;
  fs::path replaced;  // where the old one is now
  if (fs::exists(target)) {
    // Saved before, for instance by a run that began again from an earlier iteration. Where the file system
    // can exchange two names at once there is no moment without a checkpoint.
    // Elsewhere the old one is set aside for a moment, under a name by which it is found again.
    if (options_.exchange_names &&
        ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
      replaced = temporary_;
    } else {
      replaced = root_ / (kReplacedPrefix + name_);
      fs::rename(target, replaced);
      stage(SaveStage::replaced_set_aside);
      fs::rename(temporary_, target);
    }
  } else {
    fs::rename(temporary_, target);
  }
  // The new name is on the disk before the first file of the old one goes.
  sync_directory(root_);
  if (!replaced.empty()) fs::remove_all(replaced);
}

// The newest by time of writing stay: after a return to an earlier iteration, higher numbers are the older
// ones. What cannot be removed is a warning only: this checkpoint is safe.
void Save::remove_old() const {
  if (options_.keep_last <= 0) return;
  try {
    auto all = list_checkpoints(root_);
    std::reverse(all.begin(),
                 all.end());  // of two written in one tick of the clock, the later iteration is the newer
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
      return fs::last_write_time(a / kManifestFile) > fs::last_write_time(b / kManifestFile);
    });
    std::erase(all, root_ / name_);  // the newest, which `latest` names, whatever the clocks say
    for (auto i = static_cast<std::size_t>(options_.keep_last - 1); i < all.size(); ++i) {
      // Under another name first, so that a half-removed one is never taken for a checkpoint.
      const fs::path doomed = root_ / (kTemporaryPrefix + all[i].filename().string());
      fs::rename(all[i], doomed);
      fs::remove_all(doomed);
    }
  } catch (const fs::filesystem_error& error) {
    log::warning("an old checkpoint could not be removed: {}", error.what());
  }
}

void Save::run(std::span<const CheckpointTensor> tensors, const std::string& state_json) {
  for (const auto& tensor : tensors) check_tensor(tensor);
  const auto mine = tensors_to_write(tensors, mesh_);
  const auto bytes =
      std::accumulate(mine.begin(), mine.end(), std::size_t{0},
                      [&](std::size_t sum, std::size_t i) { return sum + tensors[i].stored_bytes(); });
  needed_ = static_cast<std::uint64_t>(world_.all_reduce(static_cast<std::int64_t>(bytes), ReduceOp::sum));
  step([&] {
    if (first()) prepare_directory();
  });
  stage(SaveStage::begun);
  CheckpointManifest part;
  step([&] { part = write_shard(tensors, mine); });
  stage(SaveStage::shard_written);
  part.state_json = "null";
  const auto parts = world_.all_gather_text(manifest_text(part));
  step([&] {
    if (!first()) return;
    std::vector<CheckpointManifest> all;
    all.reserve(parts.size());
    for (const auto& text : parts) all.push_back(parse_manifest_part(text));
    CheckpointManifest manifest = merge_manifests(all);
    manifest.iteration = iteration_;
    manifest.world_size = world_.size();
    manifest.state_json = state_json;
    write_file_atomically(temporary_ / kManifestFile, manifest_text(manifest));
  });
  stage(SaveStage::manifest_written);
  step([&] {
    if (first()) publish();
  });
  stage(SaveStage::renamed);
  step([&] {
    if (first()) write_file_atomically(root_ / kLatestFile, name_ + "\n");
  });
  stage(SaveStage::latest_replaced);
  if (first()) remove_old();
  world_.barrier();  // the next save must not meet what this one is still removing
  stage(SaveStage::old_removed);
}

}  // namespace

void save_checkpoint(const fs::path& root, std::int64_t iteration, std::span<const CheckpointTensor> tensors,
                     const std::string& state_json, const Mesh& mesh, const SaveOptions& options) {
  const PatientScope patience;  // file systems differ, and a limit must not cost the checkpoint
  Save(root, iteration, mesh, options).run(tensors, state_json);
}

}  // namespace xmoe
