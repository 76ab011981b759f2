#include <algorithm>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "base/hash.h"
#include "device/arena.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/manifest.h"
#include "train/checkpoint/safetensors.h"

namespace xmoe {

namespace {

// Differences listed in full; beyond that they are of one kind and only their number matters.
constexpr std::size_t kListed = 20;

struct Copy {
  const CheckpointTensor* destination;
  PlacedBox to;
  const std::byte* from_memory;
  PlacedBox from;
  DType stored;
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
  void fill() const;

 private:
  std::filesystem::path path_of(std::size_t shard) const {
    return manifest_.directory / manifest_.shards[shard].file;
  }
  const SafetensorsFile& shard(std::size_t index) {
    if (!shards_[index]) shards_[index] = std::make_unique<SafetensorsFile>(path_of(index));
    return *shards_[index];
  }
  void plan_slice(const CheckpointTensor& destination, std::span<const PlacedBox> places,
                  const CheckpointManifest::Entry& entry, const CheckpointManifest::Slice& slice);
  std::span<const std::byte> bytes_of(const std::string& name, const CheckpointManifest::Entry& entry,
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
    } else if (!can_hold(destination.held(), found->second.dtype)) {
      problems.push_back(fmt::format("{}: {} in the checkpoint, {} in the model", destination.name,
                                     name_of(found->second.dtype),
                                     name_of(stored_dtype(destination.held()))));
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
    const auto places = boxes_of_run(destination.global_shape, destination.sharding, destination.begin,
                                     destination.begin + destination.data.numel());
    for (const auto& slice : entry.slices) plan_slice(destination, places, entry, slice);
  }
}

void Load::plan_slice(const CheckpointTensor& destination, std::span<const PlacedBox> places,
                      const CheckpointManifest::Entry& entry, const CheckpointManifest::Slice& slice) {
  std::span<const std::byte> bytes;
  for (const PlacedBox& place : places) {
    const auto shared = intersection(place.box, slice.box);
    if (!shared) continue;
    if (bytes.empty()) bytes = bytes_of(destination.name, entry, slice);
    copies_.push_back({&destination, part_of(place, *shared), bytes.data(),
                       part_of(dense(slice.box), *shared), entry.dtype});
  }
}

// The copies to one destination follow each other, and together they fill it.
void Load::fill() const {
  Arena staging({}, MemoryTag::workspace);  // for what is in a device's memory
  const auto on_host = [&](const Tensor& tensor) {
    return !tensor.defined() || tensor.device().is_cpu() ? tensor
                                                         : staging.tensor(tensor.dtype(), tensor.shape());
  };
  for (std::size_t i = 0; i < copies_.size();) {
    const ArenaScope scope(staging);
    const CheckpointTensor& destination = *copies_[i].destination;
    const HeldElements host = {on_host(destination.data), on_host(destination.remainder)};
    for (; i < copies_.size() && copies_[i].destination == &destination; ++i) {
      const Copy& copy = copies_[i];
      for_each_stretch(copy.to, copy.from, [&](std::int64_t to, std::int64_t from, std::int64_t n) {
        take_elements(copy.stored, copy.from_memory + static_cast<std::size_t>(from) * size_of(copy.stored),
                      host, to, n);
      });
    }
    if (destination.data.device().is_cpu()) continue;
    copy_across(host.data, destination.data);
    if (host.remainder.defined()) copy_across(host.remainder, destination.remainder);
  }
}

std::span<const std::byte> Load::bytes_of(const std::string& name, const CheckpointManifest::Entry& entry,
                                          const CheckpointManifest::Slice& slice) {
  const SafetensorsFile& file = shard(slice.shard);
  const std::string box_name = name_of_box(name, slice.box, entry.shape);
  const SafetensorsEntry* found = file.find(box_name);
  if (found == nullptr)
    found = file.find(name);  // version 1 had one slice of a tensor in a shard, by its name
  if (found == nullptr || found->shape != slice.box.extent || found->dtype != entry.dtype)
    fail("{}: {} is not in it, though the manifest says so", file.path().string(), box_name);
  return found->bytes;
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
