// Checkpoints: a directory per iteration that any parallel layout can load.
//
//   ROOT/latest               the name of the directory to resume from
//   ROOT/iter_0000100/
//     manifest.json           training state; size and checksum of each shard, and what it holds
//     shard-00000-of-00008.safetensors    what rank 0 of 8 wrote
//
// A checkpoint is written under a temporary name, made durable, and renamed; then `latest` is replaced; then
// old ones go. A run that is killed at any moment leaves the previous checkpoint as it was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/mesh.h"
#include "device/tensor.h"
#include "model/parameter.h"
#include "train/checkpoint/boxes.h"
#include "train/checkpoint/elements.h"

namespace xmoe {

// The moments of a parameter are named after it. A reader of parameters alone may leave them.
inline constexpr const char* kFirstMomentSuffix = ".exp_avg";
inline constexpr const char* kSecondMomentSuffix = ".exp_avg_sq";

// A tensor of the training state as this rank holds it: elements [begin, begin + data.numel()) of the part
// that `sharding` gives it of the global tensor. Names, global shapes and order are the same on all ranks; a
// rank may hold nothing of a tensor.
struct CheckpointTensor {
  std::string name;
  Tensor data;            // [n] or the part's shape, on any device; any dtype
  Tensor remainder = {};  // where data is bf16 and the checkpoint holds f32 (elements.h)
  Shape global_shape;
  Sharding sharding = {};
  std::int64_t begin = 0;
  Replication replication = Replication::all;
  // Whether no other rank holds these elements; otherwise all replicas do.
  bool exclusive = false;

  HeldElements held() const { return {data, remainder}; }
  std::size_t stored_bytes() const {
    return static_cast<std::size_t>(data.numel()) * size_of(stored_dtype(held()));
  }
};

// Moments of a save at which a run may be killed; tests do.
enum class SaveStage : std::uint8_t {
  begun,
  shard_written,
  manifest_written,
  renamed,
  latest_replaced,
  old_removed,
  // Before `renamed`, on rank 0 only, and only where the names of two directories cannot be exchanged.
  replaced_set_aside
};

struct SaveOptions {
  int keep_last = 0;  // the newest to keep, this one included; 0: all
  // Called on every rank, but for the stage that says otherwise.
  std::function<void(SaveStage)> at_stage = {};
  // Exchange directories where the file system can; tests do without, as on one that cannot.
  bool exchange_names = true;
};

// Collective. `state_json` is a JSON document of the caller's (training state, model configuration). When any
// rank cannot write, all ranks throw the same Error (scope every_rank), nothing of the attempt stays, and the
// previous checkpoint is untouched.
void save_checkpoint(const std::filesystem::path& root, std::int64_t iteration,
                     std::span<const CheckpointTensor> tensors, const std::string& state_json,
                     const Mesh& mesh, const SaveOptions& options);

struct CheckpointManifest {
  struct Shard {
    std::string file;
    std::uint64_t bytes = 0;
    std::uint64_t hash = 0;
  };
  struct Slice {
    std::size_t shard = 0;
    Box box;  // of the global tensor
  };
  struct Entry {
    DType dtype = DType::f32;
    Shape shape;                // of the global tensor
    std::vector<Slice> slices;  // in order of offset; together all elements, each once
  };

  std::filesystem::path directory;
  std::int64_t iteration = 0;
  int world_size = 0;  // of the run that saved
  std::string state_json;
  std::vector<Shard> shards;
  std::map<std::string, Entry> tensors;
};

// The checkpoint directory that `path` stands for: itself, if it holds a manifest, or the one that its
// `latest` names. Nothing when there is no checkpoint; Error when `latest` names one that is not there.
std::optional<std::filesystem::path> find_checkpoint(const std::filesystem::path& path);

// Reads and checks the manifest of find_checkpoint(path); Error when there is none. Not collective.
CheckpointManifest read_manifest(const std::filesystem::path& path);

// Collective. Fills the destinations from whichever shards hold their elements. Every shard's size and
// checksum is verified, by one rank each, before anything is filled. What is f32 or bf16 in the checkpoint
// may be held in the other of the two. Missing or unknown tensors, other shapes or dtypes, damaged shards:
// all ranks throw the same Error (scope every_rank) that lists what is wrong, and no destination is touched.
void load_checkpoint(const CheckpointManifest& manifest, std::span<const CheckpointTensor> destinations,
                     Communicator& world);

}  // namespace xmoe
