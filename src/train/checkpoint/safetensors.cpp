#include "train/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "train/checkpoint/strict_json.h"

namespace xmoe {

namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kLargestHeader = 100'000'000;  // the format's own limit
constexpr std::size_t kHeaderAlignment = 8;  // so that the tensors' bytes are aligned for every dtype
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;  // hashed and written while still in the cache

struct NamedDType {
  DType dtype;
  std::string_view name;
};
constexpr std::array<NamedDType, 6> kDTypes = {{{DType::f32, "F32"},
                                                {DType::bf16, "BF16"},
                                                {DType::f16, "F16"},
                                                {DType::i32, "I32"},
                                                {DType::i64, "I64"},
                                                {DType::u8, "U8"}}};

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// A value for an error message, which must stay readable whatever the file holds.
std::string brief(const json& value) {
  constexpr std::size_t kLongest = 80;
  const std::string text = value.dump();
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

// The parts of a header, with the file's name for errors.
class HeaderReader {
 public:
  explicit HeaderReader(const std::filesystem::path& path) : path_(path.string()) {}

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: not a valid safetensors file: {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view header_text(std::string_view file) const {
    if (file.size() < kLengthBytes) refuse("it has {} bytes, too few for a header", file.size());
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), kLengthBytes);
    if (length > kLargestHeader) {
      refuse("its header claims {} bytes, at most {} are allowed", length, kLargestHeader);
    }
    if (length > file.size() - kLengthBytes) {
      refuse("its header claims {} bytes, the file has {} in all: it is truncated or of another kind", length,
             file.size());
    }
    const std::string_view text = file.substr(kLengthBytes, length);
    if (!text.starts_with('{')) refuse("its header does not begin with {{");
    return text;
  }

  std::uint64_t unsigned_of(const json& value, const std::string& where) const {
    if (!value.is_number_unsigned()) refuse("{}: {} is not a non-negative integer", where, brief(value));
    return value.get<std::uint64_t>();
  }

  DType dtype_of(const json& tensor, const std::string& where) const {
    const json& value = member(tensor, "dtype", where);
    DType dtype = DType::f32;
    if (!value.is_string() || !parse_safetensors_dtype(value.get_ref<const std::string&>(), dtype)) {
      refuse("{}: dtype {} is not supported (F32, BF16, F16, I32, I64 and U8 are)", where, brief(value));
    }
    return dtype;
  }

  Shape shape_of(const json& tensor, const std::string& where) const {
    const json& dims = member(tensor, "shape", where);
    if (!dims.is_array()) refuse("{}: shape {} is not a list", where, brief(dims));
    if (dims.size() > Shape::kMaxRank) {
      refuse("{}: {} dimensions, at most {} are supported", where, dims.size(), Shape::kMaxRank);
    }
    std::array<std::int64_t, Shape::kMaxRank> sizes{};
    std::int64_t numel = 1;
    for (std::size_t axis = 0; axis < dims.size(); ++axis) {
      const std::uint64_t size = unsigned_of(dims[axis], where);
      // Elements are counted in i64, and their bytes too (8 at most each).
      constexpr auto kMost = std::numeric_limits<std::int64_t>::max() / 8;
      if (size > static_cast<std::uint64_t>(kMost)) refuse("{}: shape {} is too large", where, brief(dims));
      sizes[axis] = static_cast<std::int64_t>(size);
      // A size of zero elsewhere does not excuse the others: it is left out of the product.
      const std::int64_t factor = std::max<std::int64_t>(1, sizes[axis]);
      if (numel > kMost / factor) refuse("{}: shape {} is too large", where, brief(dims));
      numel *= factor;
    }
    return dims.empty() ? Shape{1} : Shape(std::span<const std::int64_t>(sizes).first(dims.size()));
  }

  Extent extent_of(const json& tensor, const std::string& where) const {
    const json& offsets = member(tensor, "data_offsets", where);
    if (!offsets.is_array() || offsets.size() != 2) {
      refuse("{}: data_offsets {} is not a pair", where, brief(offsets));
    }
    const Extent extent = {unsigned_of(offsets[0], where), unsigned_of(offsets[1], where)};
    if (extent.begin > extent.end) refuse("{}: data_offsets {} are reversed", where, brief(offsets));
    return extent;
  }

  std::map<std::string, std::string> metadata_of(const json& value) const {
    if (!value.is_object()) refuse("__metadata__ is not an object");
    std::map<std::string, std::string> metadata;
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) refuse("__metadata__: the value of \"{}\" is not a string", key);
      metadata.emplace(key, text.get<std::string>());
    }
    return metadata;
  }

  void check_object(const json& value, const std::string& where) const {
    if (!value.is_object()) refuse("{} is not an object", where);
    for (const auto& [key, ignored] : value.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        refuse("{}: unknown field \"{}\"", where, key);
    }
  }

 private:
  const json& member(const json& tensor, const char* name, const std::string& where) const {
    const auto found = tensor.find(name);
    if (found == tensor.end()) refuse("{}: no {}", where, name);
    return *found;
  }

  std::string path_;
};

std::string header_of(std::span<const SafetensorsItem> items,
                      const std::map<std::string, std::string>& metadata) {
  std::string header = "{";
  if (!metadata.empty()) header += fmt::format("\"__metadata__\":{}", json(metadata).dump());
  std::set<std::string_view> names;
  std::uint64_t offset = 0;
  for (const auto& item : items) {
    const std::string& name = item.name;
    XMOE_CHECK(item.held.data.defined(), "{}: no tensor", name);
    XMOE_CHECK(name != "__metadata__" && names.insert(name).second,
               "the name {} is not allowed or given twice", name);
    if (header.size() > 1) header += ',';
    json shape = json::array();
    for (int axis = 0; axis < item.shape().rank(); ++axis) shape.push_back(item.shape()[axis]);
    header +=
        fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", json(name).dump(),
                    safetensors_name(stored_dtype(item.held)), shape.dump(), offset, offset + item.bytes());
    offset += item.bytes();
  }
  header += '}';
  while (header.size() % kHeaderAlignment != 0) header += ' ';
  XMOE_CHECK(header.size() <= kLargestHeader, "a header of {} bytes is longer than the format allows",
             header.size());
  return header;
}

}  // namespace

std::string_view safetensors_name(DType dtype) {
  for (const auto& known : kDTypes) {
    if (known.dtype == dtype) return known.name;
  }
  XMOE_CHECK(false, "the format has no {}", name_of(dtype));
}

bool parse_safetensors_dtype(std::string_view name, DType& dtype) {
  for (const auto& known : kDTypes) {
    if (known.name != name) continue;
    dtype = known.dtype;
    return true;
  }
  return false;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const HeaderReader reader(path);
  const std::string_view text = reader.header_text(file_.text());
  const auto data = file_.bytes().subspan(kLengthBytes + text.size());
  // Only spaces may pad the header; a JSON parser would let other white space pass.
  if (text.substr(0, text.find_last_not_of(' ') + 1).back() != '}') {
    reader.refuse("its header is not one JSON object padded with spaces");
  }
  const json header = parse_strict_json(text, path.string());
  std::vector<std::pair<Extent, SafetensorsEntry>> found;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = reader.metadata_of(tensor);
      continue;
    }
    const std::string where = fmt::format("tensor \"{}\"", name);
    reader.check_object(tensor, where);
    const Extent extent = reader.extent_of(tensor, where);
    SafetensorsEntry entry{name, reader.dtype_of(tensor, where), reader.shape_of(tensor, where), {}};
    const auto bytes = static_cast<std::uint64_t>(entry.shape.numel()) * size_of(entry.dtype);
    if (extent.end - extent.begin != bytes) {
      reader.refuse("{}: {} {} takes {} bytes, data_offsets give {}", where, name_of(entry.dtype),
                    to_string(entry.shape), bytes, extent.end - extent.begin);
    }
    if (extent.end > data.size()) {
      reader.refuse("{} ends at byte {} of the data, the file holds {}: it is truncated", where, extent.end,
                    data.size());
    }
    entry.bytes = data.subspan(extent.begin, bytes);
    found.emplace_back(extent, std::move(entry));
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  std::uint64_t position = 0;
  for (auto& [extent, entry] : found) {
    if (extent.begin != position) {
      reader.refuse("tensor \"{}\" begins at byte {} of the data, {} was expected: tensors {}", entry.name,
                    extent.begin, position, extent.begin < position ? "overlap" : "leave a hole");
    }
    position = extent.end;
    index_.emplace(entry.name, entries_.size());
    entries_.push_back(std::move(entry));
  }
  if (position != data.size()) {
    reader.refuse("its tensors end at byte {} of the data, the file holds {}", position, data.size());
  }
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

Tensor SafetensorsFile::read(std::string_view name, Arena& arena) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) fail("{}: no tensor named \"{}\"", path().string(), name);
  const Tensor tensor = arena.tensor(entry->dtype, entry->shape);
  if (!entry->bytes.empty()) std::memcpy(tensor.raw(), entry->bytes.data(), entry->bytes.size());
  return tensor;
}

WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const SafetensorsItem> items,
                              const std::map<std::string, std::string>& metadata) {
  FileWriter writer(path);
  StreamHash64 hash;
  const auto put = [&](const void* data, std::size_t bytes) {
    hash.update(data, bytes);
    writer.write(data, bytes);
  };
  const std::string header = header_of(items, metadata);
  const std::uint64_t length = header.size();
  put(&length, kLengthBytes);
  put(header.data(), header.size());
  for (const auto& item : items) {
    ElementReader reader(item.held);
    const auto piece = static_cast<std::int64_t>(kPieceBytes / size_of(stored_dtype(item.held)));
    for_each_stretch(item.place, dense(item.place.box),
                     [&](std::int64_t begin, std::int64_t, std::int64_t n) {
                       for (std::int64_t done = 0; done < n; done += piece) {
                         const auto bytes = reader.read(begin + done, std::min(piece, n - done));
                         put(bytes.data(), bytes.size());
                       }
                     });
  }
  writer.close(/*sync=*/true);
  return {writer.written(), hash.digest()};
}

}  // namespace xmoe
