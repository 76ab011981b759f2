#include "train/checkpoint/manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "train/checkpoint/safetensors.h"
#include "train/checkpoint/strict_json.h"

namespace xmoe {

namespace {

using nlohmann::json;

constexpr const char* kFormat = "xmoe-checkpoint";
// Version 1 knew slices of whole rows only.
constexpr int kVersion = 2;
constexpr int kVersionOfRows = 1;
constexpr const char* kDirectoryPrefix = "iter_";

std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

std::uint64_t parse_hex(const std::string& text) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value, 16);
  if (result.ec != std::errc() || result.ptr != end) fail("\"{}\" is not a checksum", text);
  return value;
}

json shape_json(const Shape& shape) {
  json dims = json::array();
  for (int axis = 0; axis < shape.rank(); ++axis) dims.push_back(shape[axis]);
  return dims;
}

Shape parse_shape(const json& dims) {
  const auto sizes = dims.get<std::vector<std::int64_t>>();
  if (sizes.empty() || sizes.size() > Shape::kMaxRank) fail("a shape of {} dimensions", sizes.size());
  for (const auto size : sizes) {
    if (size < 0) fail("a negative dimension, {}", size);
  }
  return Shape(sizes);
}

json index_json(const Index& index, int rank) {
  json list = json::array();
  for (int axis = 0; axis < rank; ++axis) list.push_back(index[static_cast<std::size_t>(axis)]);
  return list;
}

Box parse_box(const json& slice, const Shape& shape, int version) {
  Box box = whole_box(shape);
  if (version == kVersionOfRows) {  // [shard, first row, rows]
    box.offset[0] = slice.at(1).get<std::int64_t>();
    box.extent[0] = slice.at(2).get<std::int64_t>();
    return box;
  }
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const auto i = static_cast<std::size_t>(axis);
    box.offset[i] = slice.at(1).at(i).get<std::int64_t>();
    box.extent[axis] = slice.at(2).at(i).get<std::int64_t>();
  }
  return box;
}

// Every element of the tensor exactly once, from shards that exist.
void check_slices(const std::string& name, const CheckpointManifest::Entry& entry, std::size_t shards) {
  std::vector<Box> boxes;
  for (const auto& slice : entry.slices) {
    if (slice.shard >= shards) fail("{}: shard {} of {}", name, slice.shard, shards);
    for (int axis = 0; axis < entry.shape.rank(); ++axis) {
      const std::int64_t offset = slice.box.offset[static_cast<std::size_t>(axis)];
      if (offset < 0 || slice.box.extent[axis] < 0 || offset > entry.shape[axis] ||
          slice.box.extent[axis] > entry.shape[axis] - offset)
        fail("{} is no part of {}", name_of_box(name, slice.box, entry.shape), to_string(entry.shape));
    }
    boxes.push_back(slice.box);
  }
  const auto found = find_miscovered(entry.shape, boxes);
  if (!found) return;
  fail("{}: element {} is {}", name, to_string(found->element, entry.shape.rank()),
       found->missing ? "missing" : "there several times");
}

void sort_slices(CheckpointManifest::Entry& entry) {
  std::sort(entry.slices.begin(), entry.slices.end(),
            [](const auto& a, const auto& b) { return a.box.offset < b.box.offset; });
}

CheckpointManifest parse_document(json document) {
  if (!document.is_object() || document.value("format", "") != kFormat) {
    fail("it is not a checkpoint's manifest (its format is not {})", kFormat);
  }
  const json& version = document.at("version");
  if (version != kVersion && version != kVersionOfRows) {
    fail("it has version {}, this program reads versions {} and {}", version.dump(), kVersionOfRows,
         kVersion);
  }
  const auto hash = parse_hex(document.at("xxh3").get<std::string>());
  document.erase("xxh3");
  if (hash64(document.dump()) != hash) fail("its checksum is wrong: it was changed or damaged");
  CheckpointManifest manifest;
  manifest.iteration = document.at("iteration").get<std::int64_t>();
  manifest.world_size = document.at("world_size").get<int>();
  manifest.state_json = document.at("state").dump();
  for (const auto& shard : document.at("shards")) {
    manifest.shards.push_back({shard.at("file").get<std::string>(), shard.at("bytes").get<std::uint64_t>(),
                               parse_hex(shard.at("xxh3").get<std::string>())});
    const auto& file = manifest.shards.back().file;
    if (std::filesystem::path(file).filename() != file)
      fail("\"{}\" is not a file beside the manifest", file);
  }
  for (const auto& [name, tensor] : document.at("tensors").items()) {
    CheckpointManifest::Entry entry;
    if (!parse_safetensors_dtype(tensor.at("dtype").get<std::string>(), entry.dtype))
      fail("{}: unknown dtype", name);
    entry.shape = parse_shape(tensor.at("shape"));
    for (const auto& slice : tensor.at("slices"))
      entry.slices.push_back(
          {slice.at(0).get<std::size_t>(), parse_box(slice, entry.shape, version.get<int>())});
    manifest.tensors.emplace(name, std::move(entry));
  }
  return manifest;
}

}  // namespace

void check_tensor(const CheckpointTensor& tensor) {
  const Shape& global = tensor.global_shape;
  XMOE_CHECK(tensor.data.defined(), "{}: no tensor", tensor.name);
  XMOE_CHECK(!tensor.remainder.defined() ||
                 (size_of(tensor.data.dtype()) == 2 && is_float(tensor.data.dtype()) &&
                  tensor.remainder.dtype() == DType::i16 && tensor.remainder.numel() == tensor.data.numel()),
             "{}: {} remainders beside {} values", tensor.name, tensor.remainder.numel(),
             tensor.data.numel());
  for (int axis = 0; axis < global.rank(); ++axis) {
    for (const AxisRange& range : tensor.sharding.axes[static_cast<std::size_t>(axis)])
      XMOE_CHECK(range.begin >= 0 && range.size >= 0 && range.begin + range.size <= global[axis],
                 "{}: {} elements from {} along axis {} are no part of {}", tensor.name, range.size,
                 range.begin, axis, to_string(global));
  }
  const Shape local = tensor.sharding.local_shape(global);
  XMOE_CHECK(tensor.begin >= 0 && tensor.begin + tensor.data.numel() <= local.numel(),
             "{}: {} elements from {} are no part of {}", tensor.name, tensor.data.numel(), tensor.begin,
             to_string(local));
  XMOE_CHECK(tensor.exclusive || tensor.data.numel() == local.numel(),
             "{}: {} of {} elements, and all replicas are said to hold them", tensor.name,
             tensor.data.numel(), local.numel());
}

std::string checkpoint_name(std::int64_t iteration) {
  return fmt::format("{}{:07d}", kDirectoryPrefix, iteration);
}

bool is_checkpoint_directory(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  std::error_code ignored;
  return name.starts_with(kDirectoryPrefix) && std::filesystem::exists(path / kManifestFile, ignored);
}

std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& root) {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    if (is_checkpoint_directory(it->path())) found.push_back(it->path());
  }
  // Names of more digits are of later iterations.
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    const std::string x = a.filename().string();
    const std::string y = b.filename().string();
    return std::pair(x.size(), x) < std::pair(y.size(), y);
  });
  return found;
}

std::string manifest_text(const CheckpointManifest& manifest) {
  json document = {{"format", kFormat},
                   {"version", kVersion},
                   {"iteration", manifest.iteration},
                   {"world_size", manifest.world_size},
                   {"state", json::parse(manifest.state_json)},
                   {"shards", json::array()},
                   {"tensors", json::object()}};
  for (const auto& shard : manifest.shards) {
    document["shards"].push_back({{"file", shard.file}, {"bytes", shard.bytes}, {"xxh3", hex(shard.hash)}});
  }
  for (const auto& [name, entry] : manifest.tensors) {
    json slices = json::array();  // [shard, offset along each axis, extent along each axis]
    for (const auto& slice : entry.slices)
      slices.push_back(json::array(
          {slice.shard, index_json(slice.box.offset, entry.shape.rank()), shape_json(slice.box.extent)}));
    document["tensors"][name] = {
        {"dtype", safetensors_name(entry.dtype)}, {"shape", shape_json(entry.shape)}, {"slices", slices}};
  }
  // The checksum covers everything else in its shortest form, in which keys are sorted and numbers are
  // written one way.
  document["xxh3"] = hex(hash64(document.dump()));
  return document.dump(1) + "\n";
}

CheckpointManifest parse_manifest(const std::string& text, const std::filesystem::path& directory) {
  const std::string where = (directory / kManifestFile).string();
  CheckpointManifest manifest;
  try {
    manifest = parse_document(parse_strict_json(text, "its text"));
    for (const auto& [name, entry] : manifest.tensors) check_slices(name, entry, manifest.shards.size());
  } catch (const std::exception& error) {
    fail("{} cannot be used: {}; load another checkpoint", where, error.what());
  }
  manifest.directory = directory;
  return manifest;
}

CheckpointManifest parse_manifest_part(const std::string& text) { return parse_document(json::parse(text)); }

CheckpointManifest merge_manifests(const std::vector<CheckpointManifest>& parts) {
  CheckpointManifest merged;
  for (const auto& part : parts) {
    const std::size_t first_shard = merged.shards.size();
    merged.shards.insert(merged.shards.end(), part.shards.begin(), part.shards.end());
    for (const auto& [name, entry] : part.tensors) {
      auto& target = merged.tensors.try_emplace(name, CheckpointManifest::Entry{entry.dtype, entry.shape, {}})
                         .first->second;
      XMOE_CHECK(target.shape == entry.shape && target.dtype == entry.dtype,
                 "{}: ranks disagree on its shape", name);
      for (auto slice : entry.slices) {
        slice.shard += first_shard;
        target.slices.push_back(slice);
      }
    }
  }
  for (auto& [name, entry] : merged.tensors) {
    sort_slices(entry);
    check_slices(name, entry, merged.shards.size());
  }
  return merged;
}

std::optional<std::filesystem::path> find_checkpoint(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path / kManifestFile, ignored)) return path;
  if (!std::filesystem::exists(path / kLatestFile, ignored)) return std::nullopt;
  std::string name = read_text_file(path / kLatestFile);
  while (!name.empty() && (name.back() == '\n' || name.back() == '\r' || name.back() == ' ')) name.pop_back();
  const bool plain = !name.empty() && std::filesystem::path(name).filename() == name;
  if (plain && !std::filesystem::exists(path / name, ignored)) {
    // A run that was killed while it replaced this checkpoint has left it under another name.
    const std::filesystem::path aside = path / (kReplacedPrefix + name);
    if (std::filesystem::exists(aside / kManifestFile, ignored)) return aside;
  }
  if (!plain || !std::filesystem::exists(path / name / kManifestFile, ignored)) {
    std::string others;
    for (const auto& other : list_checkpoints(path)) others += fmt::format(" {}", other.string());
    fail("{} names \"{}\", which is not a checkpoint in {}; {}", (path / kLatestFile).string(), name,
         path.string(),
         others.empty() ? "there is no other one"
                        : fmt::format("load one of these by its own path:{}", others));
  }
  return path / name;
}

CheckpointManifest read_manifest(const std::filesystem::path& path) {
  const auto directory = find_checkpoint(path);
  if (!directory) {
    fail("no checkpoint in {}: neither {} nor {} is there", path.string(), kLatestFile, kManifestFile);
  }
  return parse_manifest(read_text_file(*directory / kManifestFile), *directory);
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000.0 && unit + 1 < kUnits.size()) {
    value /= 1000.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace xmoe
