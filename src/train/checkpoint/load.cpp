#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "base/hash.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/manifest.h"
#include "train/checkpoint/safetensors.h"

namespace xmoe {

namespace {

// Differences listed in full; beyond that they are of one kind and only their number matters.
constexpr std::size_t kListed = 20;

struct Copy {
  std::byte* to;
  const std::byte* from;
  std::size_t bytes;
};

// Whether a tensor of the checkpoint may be left where it is: the moments of a parameter that is loaded
// without them.
bool is_moment_of(const std::string& name, const std::set<std::string_view>& wanted) {
  for (const std::string_view suffix : {kFirstMomentSuffix, kSecondMomentSuffix}) {
    if (name.ends_with(suffix) &&
        wanted.contains(std::string_view(name).substr(0, name.size() - suffix.size())))
      return true;
  }
  return false;
}

class Load {
 public:
  Load(const CheckpointManifest& manifest, std::span<const CheckpointTensor> destinations)
      : manifest_(manifest), destinations_(destinations), shards_(manifest.shards.size()) {}

  std::vector<std::string> problems;

  void compare_tensors();
  void verify_shard(std::size_t index);
  void plan();
  void fill() const {
    for (const auto& copy : copies_) std::memcpy(copy.to, copy.from, copy.bytes);
  }

 private:
  std::filesystem::path path_of(std::size_t shard) const {
    return manifest_.directory / manifest_.shards[shard].file;
  }
  const SafetensorsFile& shard(std::size_t index) {
    if (!shards_[index]) shards_[index] = std::make_unique<SafetensorsFile>(path_of(index));
    return *shards_[index];
  }
  void plan_slice(const CheckpointTensor& destination, const CheckpointManifest::Entry& entry,
                  const CheckpointManifest::Slice& slice);

  const CheckpointManifest& manifest_;
  std::span<const CheckpointTensor> destinations_;
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  std::vector<Copy> copies_;
};

void Load::compare_tensors() {
  std::set<std::string_view> wanted;
  for (const auto& destination : destinations_) {
    check_tensor(destination);
    wanted.insert(destination.name);
    const auto found = manifest_.tensors.find(destination.name);
    if (found == manifest_.tensors.end()) {
      problems.push_back(fmt::format("{}: not in the checkpoint", destination.name));
    } else if (found->second.shape != destination.global_shape) {
      problems.push_back(fmt::format("{}: {} in the checkpoint, {} in the model", destination.name,
                                     to_string(found->second.shape), to_string(destination.global_shape)));
    } else if (found->second.dtype != destination.data.dtype()) {
      problems.push_back(fmt::format("{}: {} in the checkpoint, {} in the model", destination.name,
                                     name_of(found->second.dtype), name_of(destination.data.dtype())));
    }
  }
  for (const auto& [name, entry] : manifest_.tensors) {
    if (!wanted.contains(name) && !is_moment_of(name, wanted)) {
      problems.push_back(
          fmt::format("{}: {} in the checkpoint, not in the model", name, to_string(entry.shape)));
    }
  }
}

void Load::verify_shard(std::size_t index) {
  const auto& expected = manifest_.shards[index];
  try {
    const MappedFile file(path_of(index));
    if (file.bytes().size() != expected.bytes) {
      fail("{} has {} bytes, the manifest says {}", file.path().string(), file.bytes().size(),
           expected.bytes);
    }
    if (hash64(file.text()) != expected.hash) {
      fail("{}: its checksum differs from the manifest's: the file is damaged", file.path().string());
    }
  } catch (const Error& error) {
    problems.emplace_back(error.what());
  }
}

void Load::plan() {
  for (const auto& destination : destinations_) {
    const auto& entry = manifest_.tensors.at(destination.name);
    for (const auto& slice : entry.slices) plan_slice(destination, entry, slice);
  }
}

void Load::plan_slice(const CheckpointTensor& destination, const CheckpointManifest::Entry& entry,
                      const CheckpointManifest::Slice& slice) {
  const std::int64_t begin = std::max(slice.offset, destination.offset);
  const std::int64_t end = std::min(slice.offset + slice.rows, destination.offset + destination.data.dim(0));
  if (begin >= end) return;
  const SafetensorsEntry* found = shard(slice.shard).find(destination.name);
  Shape expected = entry.shape;
  expected[0] = slice.rows;
  if (found == nullptr || found->shape != expected || found->dtype != entry.dtype) {
    fail("{}: rows {} to {} of {} are not in it, though the manifest says so", path_of(slice.shard).string(),
         slice.offset, slice.offset + slice.rows, destination.name);
  }
  const std::size_t row = found->bytes.size() / static_cast<std::size_t>(slice.rows);
  copies_.push_back({static_cast<std::byte*>(destination.data.raw()) +
                         static_cast<std::size_t>(begin - destination.offset) * row,
                     found->bytes.data() + static_cast<std::size_t>(begin - slice.offset) * row,
                     static_cast<std::size_t>(end - begin) * row});
}

std::string join(const std::vector<std::string>& lines) {
  std::string text;
  for (std::size_t i = 0; i < std::min(lines.size(), kListed); ++i) text += "\n  " + lines[i];
  if (lines.size() > kListed) text += fmt::format("\n  and {} more", lines.size() - kListed);
  return text;
}

// Throws on all ranks when any rank has problems; those of several ranks are listed once.
void agree(const CheckpointManifest& manifest, const std::vector<std::string>& problems, const char* what,
           const char* remedy, Communicator& world) {
  std::string mine;
  for (const auto& problem : problems) mine += problem + '\n';
  std::vector<std::string> all;
  std::set<std::string> seen;
  for (const auto& text : world.all_gather_text(mine)) {
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      if (seen.insert(text.substr(begin, end - begin)).second) all.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  if (all.empty()) return;
  fail_everywhere("the checkpoint {} {}:{}\n{}", manifest.directory.string(), what, join(all), remedy);
}

}  // namespace

void load_checkpoint(const CheckpointManifest& manifest, std::span<const CheckpointTensor> destinations,
                     Communicator& world) {
  Load load(manifest, destinations);
  load.compare_tensors();
  agree(manifest, load.problems, "is of another model",
        "use the settings that it was trained with, or load another checkpoint", world);
  for (std::size_t i = 0; i < manifest.shards.size(); ++i) {
    if (i % static_cast<std::size_t>(world.size()) == static_cast<std::size_t>(world.rank()))
      load.verify_shard(i);
  }
  constexpr const char* kRemedy = "nothing was loaded; load another checkpoint";
  agree(manifest, load.problems, "is damaged", kRemedy, world);
  try {
    load.plan();
  } catch (const Error& error) {
    load.problems.emplace_back(error.what());
  }
  agree(manifest, load.problems, "is damaged", kRemedy, world);
  load.fill();
}

}  // namespace xmoe
