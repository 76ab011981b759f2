// The manifest as text, and names in a checkpoint's root: shared by save and load.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"

namespace xmoe {

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kLatestFile = "latest";
inline constexpr const char* kTemporaryPrefix = ".tmp-";  // of directories that a killed run may leave
// Of a whole checkpoint that is being replaced by another of its iteration; a temporary name, too.
inline constexpr const char* kReplacedPrefix = ".tmp-replaced-";

void check_tensor(const CheckpointTensor& tensor);  // that it is a part of what it claims to be

std::string checkpoint_name(std::int64_t iteration);              // "iter_0000100"
bool is_checkpoint_directory(const std::filesystem::path& path);  // such a name, with a manifest in it
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& root);  // by iteration

std::string manifest_text(const CheckpointManifest& manifest);
// The reverse; `directory` is taken over. Error when the text is damaged or contradicts itself.
CheckpointManifest parse_manifest(const std::string& text, const std::filesystem::path& directory);

// What one rank has written, for the rank that writes the manifest: its shard and what is in it, as a
// manifest of its own.
CheckpointManifest parse_manifest_part(const std::string& text);
// Joins the parts in order of ranks and checks that together they hold every element once.
CheckpointManifest merge_manifests(const std::vector<CheckpointManifest>& parts);

std::string format_bytes(std::uint64_t bytes);  // "1.5 GB"

}  // namespace xmoe
