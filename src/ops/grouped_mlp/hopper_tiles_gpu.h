// What the grouped products on Hopper share: tiles and their order, the ring of stages between the warps that
// load and the warpgroups that multiply, and the loads.
//
// A block has three warpgroups. The first loads, the other two (the consumers) multiply; blocks are
// persistent and take one tile after the other. A tile is 128 rows, 64 for each consumer, by 256 columns.
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
inline constexpr int kTileBytes = (kStages + 2) * 4;  // numbers of tiles on their way
inline constexpr int kSharedAlignment = 1024;         // of swizzled blocks
inline constexpr int kSharedBytes =
    kStages * kStageBytes + kStagingBytes + kBarrierBytes + kTileBytes + kSharedAlignment;

struct Experts {
  int count;
  int begin[kMostExperts + 1];  // rows of expert e: [begin[e], begin[e + 1])
  int* taken;                   // tiles that blocks took after their first; zero before a launch
};

struct Tile {
  int expert;
  int row_block, column_block;
};

// Blocks of rows of an expert's result: neighbours in time, so that they share their columns' operand in the
// L2 cache.
struct BlocksOfRows {
  int expert;
  int first, count;
};

// Tiles by their numbers, which are asked for in ascending order: of `groups` groups of blocks of rows, the
// columns of one after the other.
class TileList {
 public:
  __device__ TileList(int groups, int column_blocks) : groups_(groups), column_blocks_(column_blocks) {}

  // False beyond the last.
  template <typename GroupOf>
  __device__ bool find(int number, Tile& tile, GroupOf&& group_of) {
    for (; group_ < groups_; ++group_) {
      const BlocksOfRows rows = group_of(group_);
      const int local = number - first_;
      if (local < rows.count * column_blocks_) {
        tile = {rows.expert, rows.first + local % rows.count, local / rows.count};
        return true;
      }
      first_ += rows.count * column_blocks_;
    }
    return false;
  }

 private:
  int groups_, column_blocks_;
  int group_ = 0;
  int first_ = 0;  // tile of group_
};

// The stages in shared memory, a ring: `full` is reached when a stage's loads are complete, `empty` when both
// consumers are done with it. With a tile's first stage comes its number.
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

  __device__ void put_tile(int number) const {
    store_shared_4(tiles() + stage_ * 4, static_cast<std::uint32_t>(number));
  }
  __device__ int tile() const { return static_cast<int>(load_shared_4(tiles() + stage_ * 4)); }
  __device__ std::uint32_t next_tile(int turn) const { return tiles() + (kStages + turn) * 4; }

 private:
  __device__ std::uint32_t tiles() const { return barriers() + kBarrierBytes; }
  __device__ std::uint32_t barriers() const { return base_ + kStages * kStageBytes + kStagingBytes; }

  std::uint32_t base_;
  int stage_ = 0;
  std::uint32_t parity_ = 0;
};

// The numbers of a block's tiles, as the loading warpgroup takes them: its own first, then, when it begins
// one, the first that no block has taken. Tiles differ in time, and of fixed shares the largest would end
// some percent later.
template <bool kManyThreads>
class TakenTiles {
 public:
  __device__ TakenTiles(const Experts& experts, const Ring& ring)
      : taken_(experts.taken), ring_(ring), number_(static_cast<int>(blockIdx.x)) {}

  __device__ int number() const { return number_; }
  // By all loading threads: takes the next one, a tile ahead of next(), so that nobody waits for the counter.
  __device__ void ask() {
    if (threadIdx.x == 0) asked_ = atomicAdd(taken_, 1);
  }
  __device__ void next() {
    number_ = static_cast<int>(gridDim.x) + asked_;
    if constexpr (kManyThreads) {
      const std::uint32_t place = ring_.next_tile(turn_);
      turn_ ^= 1;  // a thread may still be reading the other place
      if (threadIdx.x == 0) store_shared_4(place, static_cast<std::uint32_t>(number_));
      warp_barrier();
      loaders_barrier();
      number_ = static_cast<int>(load_shared_4(place));
    }
  }

 private:
  static __device__ void loaders_barrier() { asm volatile("bar.sync 1, %0;" ::"n"(kWarpgroup) : "memory"); }

  int* taken_;
  const Ring& ring_;
  int number_;
  int asked_ = 0;  // of the first thread
  int turn_ = 0;
};

// Behind the last tile consumers receive a number beyond all.
template <bool kManyThreads>
__device__ inline void tell_the_end(const Ring& ring, int number) {
  ring.wait_empty();
  const std::uint32_t full = ring.full(ring.stage());
  if (threadIdx.x == 0) {
    ring.put_tile(number);
    barrier_arrive(full);
  }
  if constexpr (kManyThreads) arrive_after_copies(full);
}

__device__ inline int received_tile(const Ring& ring) {
  ring.wait_full();
  return ring.tile();
}

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

// Keeps the compiler from forming the address where it is used: what a gather does between a free stage and
// its copies adds to the time of a load, which four stages hardly cover. So the addresses of the next copies
// are formed behind the last ones.
__device__ inline void form_here(const char*& address) { asm volatile("" : "+l"(address)); }

// Loads by index of the left operand, K-major: 8 threads copy the 128 bytes of a row.
class RowGather {
  static constexpr int kRowsAtOnce = kWarpgroup / 8;
  static constexpr int kRowsOfThread = kRows / kRowsAtOnce;

 public:
  __device__ RowGather(const PairRows& rows, int first, int count) {
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / 8;
    offset_ = swizzled(row, thread % 8);
    full_ = count == kRows;
    count_ = (count - row + kRowsAtOnce - 1) / kRowsAtOnce;
    int index[kRowsOfThread];  // all are asked for before the first is used
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      index[i] = rows.index_of(first + min(row + i * kRowsAtOnce, count - 1));
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) from_[i] = rows.row_at(index[i]) + thread % 8 * 16;
  }
  // The next terms. Rows beyond the expert's are left as they are: they reach none but their own results,
  // which nobody keeps.
  __device__ void load(std::uint32_t to) const {
    to += offset_;
    if (full_) {
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i) copy_16(to + i * kRowsAtOnce * kRowBytes, from_[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i)
        if (i < count_) copy_16(to + i * kRowsAtOnce * kRowBytes, from_[i]);
    }
  }
  __device__ void advance() {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      from_[i] += kDepth * 2;
      form_here(from_[i]);
    }
  }

 private:
  const char* from_[kRowsOfThread];
  int offset_;
  int count_;
  bool full_;
};

// Loads by index of a right operand whose terms are rows (transposed): kColumns of 64 rows a stage, in blocks
// of 64 columns. 8 threads copy 128 bytes of a row, in each block.
class TermGather {
  static constexpr int kRowsAtOnce = kWarpgroup / 8;
  static constexpr int kRowsOfThread = kDepth / kRowsAtOnce;
  static constexpr int kBlocks = kColumns / kDepth;

 public:
  __device__ TermGather(const PairRows& rows, int first, int end, int column)
      : rows_(rows), next_(first), end_(end) {
    const int thread = static_cast<int>(threadIdx.x);
    row_ = thread / 8;
    offset_ = swizzled(row_, thread % 8);
    column_bytes_ = 2 * column + thread % 8 * 16;
    blocks_ = min(kBlocks, (rows.row_bytes / 2 - column) / kDepth);
    ask();
    advance();
  }
  // Rows from the end on are zeros, so that whatever the other operand holds there adds nothing.
  __device__ void load(std::uint32_t to) const {
    to += offset_;
    if (blocks_ == kBlocks && left_ >= kDepth) {
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i)
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) copy_16(to + place(i, b), from_[i] + b * kRowBytes);
    } else {
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i)
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          if (b < blocks_)
            copy_16(to + place(i, b), from_[i] + b * kRowBytes, row_ + i * kRowsAtOnce < left_ ? 16 : 0);
    }
  }
  __device__ void advance() {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      from_[i] = rows_.row_at(index_[i]) + column_bytes_;
      form_here(from_[i]);
    }
    left_ = end_ - next_;
    next_ += kDepth;
    ask();
  }

 private:
  static __device__ constexpr int place(int i, int block) {
    return i * kRowsAtOnce * kRowBytes + block * kBlockBytes;
  }
  // The indices of the next stage, ahead of its turn; beyond the end that of the last row, which can be
  // addressed.
  __device__ void ask() {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i)
      index_[i] = rows_.index_of(min(next_ + row_ + i * kRowsAtOnce, end_ - 1));
  }

  const PairRows& rows_;
  const char* from_[kRowsOfThread];
  int index_[kRowsOfThread];
  int next_, end_;
  int left_;  // rows from the first of the stage on
  int row_;
  int offset_;
  int column_bytes_;
  int blocks_;
};

}  // namespace xmoe::gpu::hopper
