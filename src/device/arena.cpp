#include "device/arena.h"

#include <algorithm>
#include <mutex>
#include <set>

namespace xmoe {

namespace {
constexpr std::size_t kAlignment = 64;                     // a cache line: tensors never share one
constexpr std::size_t kFirstChunk = std::size_t{1} << 16;  // small, since tests make many arenas
// A merged chunk has 1/4 more than was needed so far: experts that take in up to a quarter more rows than in
// any earlier step then need no new memory. Pages that are never touched cost nothing on the CPU.
constexpr std::size_t kSlackShare = 4;

// All that are alive, for accounts of memory.
struct Registry {
  std::mutex mutex;
  std::set<const Arena*> arenas;
};
Registry& registry() {
  static Registry all;
  return all;
}

double gibibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

// What makes less of it.
std::string_view remedy(MemoryTag tag) {
  switch (tag) {
    case MemoryTag::parameters:
      return "more ranks that share the model (--expert-model-parallel-size, --tensor-model-parallel-size), "
             "or "
             "--bf16";
    case MemoryTag::gradients:
      return "more ranks that share the model (--expert-model-parallel-size, --tensor-model-parallel-size)";
    case MemoryTag::optimizer:
      return "--exp-avg-dtype bf16 --exp-avg-sq-dtype bf16, or --zero-stage 1 over several ranks";
    case MemoryTag::saved:
      return "a smaller --micro-batch-size, or --recompute-granularity selective or full";
    case MemoryTag::workspace:
    case MemoryTag::communication:
      return "a smaller --micro-batch-size";
  }
  return "a smaller model";
}

}  // namespace

std::array<TagMemory, kMemoryTags> memory_by_tag(const Device& device) {
  std::array<TagMemory, kMemoryTags> tags;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (const Arena* arena : all.arenas) {
    if (arena->device() != device) continue;
    TagMemory& tag = tags[static_cast<std::size_t>(arena->tag())];
    tag.reserved += arena->reserved();
    tag.high_water += arena->high_water();
  }
  return tags;
}

Arena::Arena(Device device, MemoryTag tag) : device_(device), tag_(tag) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.arenas.insert(this);
}

std::string_view name_of(MemoryTag tag) {
  switch (tag) {
    case MemoryTag::parameters:
      return "parameters";
    case MemoryTag::gradients:
      return "gradients";
    case MemoryTag::optimizer:
      return "optimizer";
    case MemoryTag::saved:
      return "saved activations";
    case MemoryTag::workspace:
      return "workspace";
    case MemoryTag::communication:
      return "communication";
  }
  return "unknown";
}

Arena::~Arena() {
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    all.arenas.erase(this);
  }
  for (const auto& chunk : chunks_) device_free(device_, chunk.data);
}

Tensor Arena::zeros(DType dtype, const Shape& shape) {
  Tensor t = tensor(dtype, shape);
  device_fill(device_, t.raw(), 0, t.bytes());
  return t;
}

std::size_t Arena::aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void Arena::add_chunk(std::size_t bytes) {
  void* data = nullptr;
  try {
    data = device_allocate(device_, bytes, name_of(tag_));
  } catch (const Error& error) {
    std::string held;
    const auto tags = memory_by_tag(device_);
    for (std::size_t i = 0; i < kMemoryTags; ++i)
      if (tags[i].reserved > 0)
        held += fmt::format("{}{} {:.2f} GiB", held.empty() ? "" : ", ", name_of(static_cast<MemoryTag>(i)),
                            gibibytes(tags[i].reserved));
    fail("{}; held: {}. To need less: {}", error.what(), held.empty() ? "nothing" : held, remedy(tag_));
  }
  chunks_.push_back({static_cast<std::byte*>(data), bytes, 0});
  ++device_allocations_;
}

// On a GPU no more than half of what would be left free.
std::size_t Arena::slack() const {
  const std::size_t usual = high_water_ / kSlackShare;
  if (device_.is_cpu()) return usual;
  const std::size_t free = device_memory(device_).free;
  return free < high_water_ ? 0 : std::min(usual, (free - high_water_) / 2);
}

void Arena::reserve(std::size_t bytes) {
  XMOE_CHECK(in_use() == 0, "{} bytes are in use: it is too late to reserve", in_use());
  if (reserved() >= bytes && chunks_.size() <= 1) return;
  for (const auto& chunk : chunks_) device_free(device_, chunk.data);
  chunks_.clear();
  rewind({});
  add_chunk(bytes);
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t size = aligned(bytes);
  // Growing by half of what is held keeps the number of chunks logarithmic.
  const auto grow = [&] { add_chunk(std::max({size, reserved() / 2, kFirstChunk})); };
  if (chunks_.empty()) grow();
  if (offset_ + size > chunks_[current_].size) {
    chunks_[current_].used = offset_;
    // A later chunk left over from before a rewind may be too small for this request: drop it and those
    // behind it.
    if (current_ + 1 < chunks_.size() && chunks_[current_ + 1].size < size) {
      for (std::size_t i = current_ + 1; i < chunks_.size(); ++i) device_free(device_, chunks_[i].data);
      chunks_.resize(current_ + 1);
    }
    if (current_ + 1 == chunks_.size()) grow();
    ++current_;
    offset_ = 0;
  }
  std::byte* data = chunks_[current_].data + offset_;
  offset_ += size;
  high_water_ = std::max(high_water_, in_use());
  return data;
}

void Arena::rewind(const Mark& mark) {
  current_ = mark.chunk;
  offset_ = mark.offset;
  if (current_ == 0 && offset_ == 0 && chunks_.size() > 1) {
    for (const auto& chunk : chunks_) device_free(device_, chunk.data);
    chunks_.clear();
    add_chunk(high_water_ + slack());
  }
}

std::size_t Arena::in_use() const {
  std::size_t bytes = offset_;
  for (std::size_t i = 0; i < current_; ++i) bytes += chunks_[i].used;
  return bytes;
}

std::size_t Arena::reserved() const {
  std::size_t bytes = 0;
  for (const auto& chunk : chunks_) bytes += chunk.size;
  return bytes;
}

}  // namespace xmoe
