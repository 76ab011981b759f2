// The safetensors format of Hugging Face: a u64 header length, a JSON header, the tensors' bytes,
// little-endian. Reading is strict: a file that breaks any rule of the format is refused with the rule that
// it breaks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "device/arena.h"
#include "device/tensor.h"
#include "train/checkpoint/boxes.h"
#include "train/checkpoint/elements.h"

namespace xmoe {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;                       // a scalar is [1]
  std::span<const std::byte> bytes;  // in the mapped file; not necessarily aligned
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* find(std::string_view name) const;  // null when there is none
  Tensor read(std::string_view name, Arena& arena) const;     // a copy; throws Error when there is none

 private:
  MappedFile file_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsItem {
  SafetensorsItem(std::string item_name, const Tensor& whole)
      : name(std::move(item_name)), held{whole, {}}, place(dense(whole_box(whole.shape()))) {}
  // Only the part of the memory that `item_place` is.
  SafetensorsItem(std::string item_name, const HeldElements& memory, const PlacedBox& item_place)
      : name(std::move(item_name)), held(memory), place(item_place) {}

  const Shape& shape() const { return place.box.extent; }
  std::size_t bytes() const {
    return static_cast<std::size_t>(shape().numel()) * size_of(stored_dtype(held));
  }

  std::string name;
  HeldElements held;
  PlacedBox place;
};

struct WrittenFile {
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;  // hash64 of all of them
};

// Writes a whole file and waits for the disk. Names must differ.
WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const SafetensorsItem> items,
                              const std::map<std::string, std::string>& metadata = {});

// The format's names of element types: "F32", "BF16", ... parse returns false for types that a Tensor cannot
// have.
std::string_view safetensors_name(DType dtype);
bool parse_safetensors_dtype(std::string_view name, DType& dtype);

}  // namespace xmoe
