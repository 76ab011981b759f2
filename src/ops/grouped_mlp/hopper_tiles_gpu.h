// What the grouped products on Hopper share: tiles and their order, the ring of stages between the warps that
// load and the warpgroups that multiply, and the loads.
//
// A block has three warpgroups. The first loads, the other two (the consumers) multiply; blocks are
// persistent and take every gridDim-th tile. A tile is 128 rows, 64 for each consumer, by 256 columns.
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
inline constexpr int kDepth = 64;  // terms a stage: 128 bytes, one swizzled row
inline constexpr int kTerms = 16;  // of one tensor-core instruction
inline constexpr int kRowBytes = 128;
inline constexpr int kBlockRows = 64;  // rows of one tensor-core instruction
inline constexpr int kBlockBytes = kBlockRows * kRowBytes;
inline constexpr int kPieceColumns = 64;  // results leave a warp 16 rows by 64 columns at a time
inline constexpr int kPieceBytes = 16 * kRowBytes;
inline constexpr int kConsumerWarps = kConsumers * kWarpgroup / 32;
inline constexpr int kMostExperts = 512;  // their rows travel with the kernel's parameters

inline constexpr int kRows = kConsumers * kBlockRows;  // of a tile
inline constexpr int kColumns = 256;
inline constexpr int kSums = kColumns / 2;  // of a consumer's thread
inline constexpr int kLeftBytes = kRows * kRowBytes;
inline constexpr int kStageBytes = kLeftBytes + kColumns * kRowBytes;
inline constexpr int kStagingBytes = kConsumerWarps * 2 * kPieceBytes;
inline constexpr int kBarrierBytes = 2 * kStages * 8;
inline constexpr int kSharedAlignment = 1024;  // of swizzled blocks
inline constexpr int kSharedBytes = kStages * kStageBytes + kStagingBytes + kBarrierBytes + kSharedAlignment;

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
    return base_ + kStages * kStageBytes + warp * 2 * kPieceBytes;
  }
  __device__ std::uint32_t full(int s) const { return barriers() + s * 8; }
  __device__ std::uint32_t empty(int s) const { return barriers() + (kStages + s) * 8; }

  __device__ int stage() const { return stage_; }
  __device__ std::uint32_t address() const { return base_ + stage_ * kStageBytes; }
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
  __device__ std::uint32_t barriers() const { return base_ + kStages * kStageBytes + kStagingBytes; }

  std::uint32_t base_;
  int stage_ = 0;
  std::uint32_t parity_ = 0;
};

// Rows that lie in two matrices, by index (grouped_mlp.h). Both are addressed by the same index: `remote` is
// where row 0 would lie if the rows before local_rows came before it.
struct PairRows {
  char* local;
  char* remote;
  const std::int32_t* index;  // null: in order, all local
  int local_rows;
  int row_bytes;

  __device__ int index_of(int r) const { return index == nullptr ? r : __ldg(index + r); }
  __device__ char* row_at(int i) const {
    char* const matrix = i < local_rows ? local : remote;
    return matrix + static_cast<std::int64_t>(i) * row_bytes;
  }
};

// Position of 16-byte piece `piece` in row `row` of a swizzled block.
__device__ inline int swizzled(int row, int piece) { return row * kRowBytes + ((piece ^ (row & 7)) << 4); }

// Loads by index of the left operand, K-major: 8 threads copy the 128 bytes of a row.
class RowGather {
  static constexpr int kRowsAtOnce = kWarpgroup / 8;
  static constexpr int kRowsOfThread = kRows / kRowsAtOnce;

 public:
  __device__ RowGather(const PairRows& rows, int first, int count) {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / 8;
    offset_ = swizzled(row, thread % 8);
    count_ = (count - row + kRowsAtOnce - 1) / kRowsAtOnce;
    int index[kRowsOfThread];  // all are asked for before the first is used
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      index[i] = rows.index_of(first + min(row + i * kRowsAtOnce, count - 1));
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) from_[i] = rows.row_at(index[i]) + thread % 8 * 16;
  }
  // Rows beyond the expert's are left as they are: they reach none but their own results, which nobody keeps.
  __device__ void load(std::uint32_t to, int term) const {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      if (i < count_) copy_16(to + offset_ + i * kRowsAtOnce * kRowBytes, from_[i] + term * 2);
  }

 private:
  const char* from_[kRowsOfThread];
  int offset_;
  int count_;
};

// Loads by index of a right operand whose terms are rows (transposed): kColumns of 64 rows, in blocks of 64
// columns. A warp copies a row at a time, of the sixteen that are its own; lane l keeps the address of the
// l-th.
class TermGather {
  static constexpr int kWarps = kWarpgroup / kWarpSize;
  static constexpr int kRowsOfWarp = kDepth / kWarps;
  static_assert(kColumns == kWarpSize * 8);  // 16 bytes a lane

 public:
  __device__ TermGather(const PairRows& rows, int first, int end, int column)
      : rows_(rows), next_(first), end_(end) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    row_ = static_cast<int>(threadIdx.x) / kWarpSize;
    kept_row_ = row_ + lane % kRowsOfWarp * kWarps;
    block_ = lane / 8 * kBlockBytes;
    piece_ = lane % 8;
    column_bytes_ = 2 * column + lane * 16;
    inside_ = column_bytes_ < rows.row_bytes;
    fetch();
  }
  // Rows from the end on are zeros, so that whatever the other operand holds there adds nothing.
  __device__ void load(std::uint32_t to) {
    const auto kept = reinterpret_cast<std::uint64_t>(rows_.row_at(index_));
    const int left = end_ - next_ - row_;
    next_ += kDepth;
    fetch();
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const std::uint64_t from = __shfl_sync(0xFFFFFFFFU, kept, i);
      if (inside_)
        copy_16(to + block_ + swizzled(row_ + i * kWarps, piece_),
                reinterpret_cast<const char*>(from) + column_bytes_, i * kWarps < left ? 16 : 0);
    }
  }

 private:
  // The index of the next stage, ahead of its turn; beyond the end that of the last row, which can be
  // addressed.
  __device__ void fetch() { index_ = rows_.index_of(min(next_ + kept_row_, end_ - 1)); }

  const PairRows& rows_;
  int next_, end_;
  int kept_row_, index_;
  int row_, block_, piece_;
  int column_bytes_;
  bool inside_;
};

}  // namespace xmoe::gpu::hopper
