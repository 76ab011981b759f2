// What the grouped products on Hopper share: tiles and their order, the ring of stages between the warps that
// load and the warpgroups that multiply, and the loads.
//
// A block has three warpgroups. The first loads, the other two (the consumers) multiply; blocks are
// persistent and take every gridDim-th tile. A tile is 128 kBlocks rows by kColumns columns; blocks of 64
// rows go to the consumers in turn, so that a tile with few rows occupies the tensor cores no longer than its
// rows need.
#pragma once

#include "base/dtype.h"
#include "ops/grouped_mlp/hopper_ptx_gpu.h"

namespace xmoe::gpu::hopper {

inline constexpr int kWarpgroup = 128;
inline constexpr int kConsumers = 2;
inline constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
// Of 168 a thread at launch: the consumers hold 128 sums each, the loader 16 addresses.
inline constexpr int kLoaderRegisters = 72;
inline constexpr int kConsumerRegisters = 216;

inline constexpr int kStages = 4;
inline constexpr int kDepth = 64;  // terms a stage: 128 bytes of bf16, one swizzled row
inline constexpr int kTerms = 16;  // of one tensor-core instruction
inline constexpr int kRowBytes = 128;
inline constexpr int kBlockRows = 64;  // rows of one tensor-core instruction
inline constexpr int kBlockBytes = kBlockRows * kRowBytes;
inline constexpr int kPieceColumns = 64;  // results leave a warp 16 rows by 64 columns at a time
inline constexpr int kPieceBytes = 16 * kRowBytes;
inline constexpr int kConsumerWarps = kConsumers * 4;
inline constexpr int kMostExperts = 512;  // their rows travel with the kernel's parameters

template <int kBlocksOf64, int kColumnsOfTile>
struct TileShape {
  static constexpr int kBlocks = kBlocksOf64;  // of 64 rows, per consumer
  static constexpr int kRows = kConsumers * kBlocks * kBlockRows;
  static constexpr int kColumns = kColumnsOfTile;
  static constexpr int kSums = kColumns / 2;  // of a thread, per block
  static constexpr int kLeftBytes = kRows * kRowBytes;
  static constexpr int kStageBytes = kLeftBytes + kColumns * kRowBytes;
  static constexpr int kStagingBytes = kConsumerWarps * 2 * kPieceBytes;
  static constexpr int kBarrierBytes = 2 * kStages * 8;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kStagingBytes + kBarrierBytes + 1024;  // to align
};

struct Experts {
  int count;
  int begin[kMostExperts + 1];  // rows of expert e: [begin[e], begin[e + 1])
};

struct Tile {
  int expert;
  int row_block, column_block;
};

// The tiles of this block, in order. `blocks_of_rows(e)` is how many blocks of rows the result of expert e
// has; these are neighbours in time and share their columns' operand in the L2 cache.
class TileWalk {
 public:
  __device__ TileWalk(const Experts& experts, int column_blocks)
      : experts_(experts), column_blocks_(column_blocks), next_(static_cast<int>(blockIdx.x)) {}

  template <typename BlocksOfRows>
  __device__ bool next(Tile& tile, BlocksOfRows&& blocks_of_rows) {
    for (; expert_ < experts_.count; ++expert_) {
      const int row_blocks = blocks_of_rows(expert_);
      const int local = next_ - first_;
      if (local < row_blocks * column_blocks_) {
        tile = {expert_, local % row_blocks, local / row_blocks};
        next_ += static_cast<int>(gridDim.x);
        return true;
      }
      first_ += row_blocks * column_blocks_;
    }
    return false;
  }

 private:
  const Experts& experts_;
  int column_blocks_;
  int next_;
  int expert_ = 0;
  int first_ = 0;  // tile of expert_
};

// The stages in shared memory, a ring: `full` is reached when a stage's loads are complete, `empty` when both
// consumers are done with it.
template <typename Shape>
class Ring {
 public:
  __device__ explicit Ring(std::uint32_t base) : base_(base) {}

  __device__ void init(int full_arrivals) const {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full(s), full_arrivals);
      barrier_init(empty(s), kConsumerWarps);
    }
    barrier_init_fence();
  }
  __device__ std::uint32_t staging(int warp) const {
    return base_ + kStages * Shape::kStageBytes + warp * 2 * kPieceBytes;
  }
  __device__ std::uint32_t full(int s) const { return barriers() + s * 8; }
  __device__ std::uint32_t empty(int s) const { return barriers() + (kStages + s) * 8; }

  __device__ int stage() const { return stage_; }
  __device__ std::uint32_t address() const { return base_ + stage_ * Shape::kStageBytes; }
  __device__ void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }
  __device__ void wait_full() const { barrier_wait(full(stage_), parity_); }
  __device__ void wait_empty() const {
    barrier_wait(empty(stage_), parity_ ^ 1);
  }  // at once in the first round

 private:
  __device__ std::uint32_t barriers() const {
    return base_ + kStages * Shape::kStageBytes + Shape::kStagingBytes;
  }

  std::uint32_t base_;
  int stage_ = 0;
  std::uint32_t parity_ = 0;
};

// Rows that lie in two matrices, by index (grouped_mlp.h).
struct PairRows {
  const char* local;
  const char* remote;
  const std::int32_t* index;  // null: in order, all local
  int local_rows;
  int width;  // elements

  __device__ const char* row(int r) const {
    const int i = index == nullptr ? r : __ldg(index + r);
    const std::int64_t bytes = std::int64_t{2} * width;
    return i < local_rows ? local + i * bytes : remote + (i - local_rows) * bytes;
  }
};

// Where rows go, in the same way.
struct OutputPair {
  bf16* local;
  bf16* remote;
  const std::int32_t* index;  // null: in order, all local
  int local_rows;
  int width;
};

// Position of 16-byte piece `piece` in row `row` of a swizzled block.
__device__ inline int swizzled(int row, int piece) { return row * kRowBytes + ((piece ^ (row & 7)) << 4); }

// Loads by index of the left operand, K-major: 8 threads copy the 128 bytes of a row.
template <typename Shape>
class RowGather {
  static constexpr int kRowsAtOnce = kWarpgroup / 8;
  static constexpr int kRowsOfThread = Shape::kRows / kRowsAtOnce;

 public:
  __device__ RowGather(const PairRows& rows, int first, int count) {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / 8;
    offset_ = swizzled(row, thread % 8);
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      const int r = row + i * kRowsAtOnce;
      from_[i] = r < count ? rows.row(first + r) + thread % 8 * 16 : nullptr;
    }
  }
  // Rows beyond the expert's are left as they are: they reach none but their own results, which nobody keeps.
  __device__ void load(std::uint32_t to, int term) const {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      if (from_[i] != nullptr) copy_16(to + offset_ + i * kRowsAtOnce * kRowBytes, from_[i] + term * 2);
  }

 private:
  const char* from_[kRowsOfThread];
  int offset_;
};

// Loads by index of an operand whose terms are rows (transposed): kColumns of 64 rows, in blocks of 64
// columns.
template <int kColumns>
class TermGather {
  static constexpr int kPieces = kColumns / 8;  // of 16 bytes in a row
  static constexpr int kRowsAtOnce = kWarpgroup / kPieces;
  static constexpr int kRowsOfThread = kDepth / kRowsAtOnce;

 public:
  __device__ TermGather(const PairRows& rows, int first, int end, int column)
      : rows_(rows),
        row_(static_cast<int>(threadIdx.x) / kPieces),
        piece_(static_cast<int>(threadIdx.x) % kPieces),
        next_(first + row_),
        end_(end),
        column_(column + piece_ * 8) {
    fetch();
  }
  // Rows from the end on are zeros, so that whatever the other operand holds there adds nothing.
  __device__ void load(std::uint32_t to) {
    const std::int64_t bytes = std::int64_t{2} * rows_.width;
    if (column_ < rows_.width) {
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i) {
        const int row = row_ + i * kRowsAtOnce;
        const bool inside = index_[i] >= 0;
        const int r = inside ? index_[i] : 0;
        const char* from =
            r < rows_.local_rows ? rows_.local + r * bytes : rows_.remote + (r - rows_.local_rows) * bytes;
        copy_16(to + piece_ / 8 * kBlockBytes + swizzled(row, piece_ % 8), from + 2 * column_,
                inside ? 16 : 0);
      }
    }
    next_ += kDepth;
    fetch();
  }

 private:
  // The indices of the next stage, ahead of its turn.
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      const int r = next_ + i * kRowsAtOnce;
      index_[i] = r >= end_ ? -1 : rows_.index == nullptr ? r : __ldg(rows_.index + r);
    }
  }

  const PairRows& rows_;
  int row_, piece_;
  int next_, end_;
  int column_;
  int index_[kRowsOfThread];
};

}  // namespace xmoe::gpu::hopper
