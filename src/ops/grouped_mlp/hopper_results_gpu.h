// What becomes of the sums of a tile of rows: stored, scattered, activated or turned into gradients of the
// activation's input. Results leave through shared memory, 16 rows by 64 columns of a warp at a time, so that
// memory is written in whole rows of 128 bytes.
#pragma once

#include "device/gpu.h"
#include "ops/grouped_mlp/grouped_mlp.h"
#include "ops/grouped_mlp/hopper_multiply_gpu.h"

namespace xmoe::gpu::hopper {

// Where a warp's part of a tile lies.
struct Part {
  int row;     // first row of the tile, counted over all experts
  int rows;    // rows of the tile that are the expert's
  int column;  // first column of the tile
  int column_block;
  int consumer, warp, lane;  // warp of the consumer

  // First row of the warp's 16 in block i, in the tile.
  __device__ int first(int i) const { return (consumer + i * kConsumers) * kBlockRows + warp * 16; }
};

// 16 rows by 64 columns of a warp, two bf16 in a word: words[2 j] of the upper eight rows and columns 8 j,
// words[2 j + 1] of the lower.
using Piece = std::uint32_t[16];

class PieceWriter {
 public:
  __device__ explicit PieceWriter(std::uint32_t staging) : staging_(staging) {}

  // `to(r)` is where row r of the sixteen goes, or null. Two buffers take turns: a warp's barrier between
  // writing and reading one also ends all reading of the other.
  template <typename RowPointer>
  __device__ void write(const Piece& words, int lane, RowPointer&& to) {
    const std::uint32_t buffer = staging_ + turn_ * kPieceBytes;
    turn_ ^= 1;
    const int row = lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
    for (int q = 0; q < 4; ++q)
      store_matrices(buffer + swizzled(row, 2 * q + lane / 16), words[4 * q], words[4 * q + 1],
                     words[4 * q + 2], words[4 * q + 3]);
    warp_barrier();
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int r = q * 4 + lane / 8;
      bf16* const at = to(r);
      const uint4 v = load_shared_16(buffer + swizzled(r, lane % 8));
      if (at != nullptr) *reinterpret_cast<uint4*>(at + lane % 8 * 8) = v;
    }
  }

 private:
  std::uint32_t staging_;
  int turn_ = 0;
};

template <int kCount>
__device__ inline void pack(const float (&sums)[kCount], int first, Piece& words) {
#pragma unroll
  for (int j = 0; j < 16; ++j) words[j] = round_pair(sums[first + 2 * j], sums[first + 2 * j + 1]);
}

__device__ inline float lower(std::uint32_t word) { return __uint_as_float(word << 16); }
__device__ inline float upper(std::uint32_t word) { return __uint_as_float(word & 0xFFFF0000U); }

__device__ inline float sigmoid(float x) { return __fdividef(1.0F, 1.0F + __expf(-x)); }

struct Gelu {  // the tanh form; (1 + tanh(u)) / 2 = sigmoid(2 u)
  static constexpr float kTwiceSqrt2OverPi = 1.5957691216F;
  static constexpr float kCubic = 0.044715F;
  static __device__ float gate(float x) {
    return sigmoid(x * (kTwiceSqrt2OverPi + kTwiceSqrt2OverPi * kCubic * x * x));
  }
  static __device__ float derivative(float x, float s) {
    return s + x * s * (1.0F - s) * (kTwiceSqrt2OverPi + 3.0F * kTwiceSqrt2OverPi * kCubic * x * x);
  }
};

// Combine weights of the two rows that a thread holds sums of, per block.
template <int kBlocks>
__device__ inline void read_weights(const float* weights, const Part& part, int active,
                                    float (&w)[kBlocks][2]) {
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int r = part.first(i) + part.lane / 4 + 8 * k;
      w[i][k] = weights != nullptr && i < active && r < part.rows ? __ldg(weights + part.row + r) : 1.0F;
    }
}

// Row r of the sixteen of block i in a matrix whose rows are in order.
__device__ inline bf16* ordered_row(bf16* matrix, int width, const Part& part, int i, int r, int column) {
  const int row = part.first(i) + r;
  return row < part.rows ? matrix + std::int64_t{part.row + row} * width + column : nullptr;
}

// y and dx: every row goes where its index says.
template <typename Shape>
struct Scatter {
  struct Parameters {
    OutputPair to;
  };
  static constexpr int kStages = 0;

  static __device__ void store(const Parameters& p, float (&sums)[Shape::kBlocks][Shape::kSums], int active,
                               const Part& part, PieceWriter& writer, Ring<Shape>&) {
    // Lane 16 i + r holds the index of row r of block i.
    const int mine = part.first(part.lane / 16) + part.lane % 16;
    int index = -1;
    if (part.lane / 16 < active && mine < part.rows)
      index = p.to.index == nullptr ? part.row + mine : __ldg(p.to.index + part.row + mine);
#pragma unroll
    for (int i = 0; i < Shape::kBlocks; ++i) {
      if (i >= active) break;
#pragma unroll
      for (int c = 0; c < Shape::kColumns / kPieceColumns; ++c) {
        const int column = part.column + c * kPieceColumns;
        if (column >= p.to.width) break;
        Piece words;
        pack(sums[i], c * 32, words);
        writer.write(words, part.lane, [&](int r) -> bf16* {
          const int to = __shfl_sync(0xFFFFFFFFU, index, i * 16 + r);
          if (to < 0) return nullptr;
          return (to < p.to.local_rows ? p.to.local + std::int64_t{to} * p.to.width
                                       : p.to.remote + std::int64_t{to - p.to.local_rows} * p.to.width) +
                 column;
        });
      }
    }
  }
};

// h and, unless `a` is null, a = w act(h), formed from h as it was rounded: backward reads no other.
template <typename Shape, Activation kActivation>
struct Activate {
  struct Parameters {
    bf16* h;               // [R, I']
    bf16* a;               // [R, I]
    const float* weights;  // [R], or null
    int ffn;               // I
  };
  static constexpr int kStages = 0;

  static __device__ void store(const Parameters& p, float (&sums)[Shape::kBlocks][Shape::kSums], int active,
                               const Part& part, PieceWriter& writer, Ring<Shape>&) {
    constexpr bool kGated = kActivation == Activation::swiglu;  // the tile's halves are gate and up
    constexpr int kPieces = Shape::kColumns / kPieceColumns / (kGated ? 2 : 1);
    const int width = kGated ? 2 * p.ffn : p.ffn;
    float w[Shape::kBlocks][2];
    read_weights(p.weights, part, active, w);
#pragma unroll
    for (int i = 0; i < Shape::kBlocks; ++i) {
      if (i >= active) break;
#pragma unroll
      for (int c = 0; c < kPieces; ++c) {
        const int column = part.column + c * kPieceColumns;
        if (column >= p.ffn) break;
        Piece first;
        Piece second;
        pack(sums[i], c * 32, first);
        writer.write(first, part.lane, [&](int r) { return ordered_row(p.h, width, part, i, r, column); });
        if constexpr (kGated) {
          pack(sums[i], (kPieces + c) * 32, second);
          writer.write(second, part.lane,
                       [&](int r) { return ordered_row(p.h, width, part, i, r, p.ffn + column); });
        }
        if (p.a == nullptr) continue;
#pragma unroll
        for (int j = 0; j < 16; ++j) {
          const float x0 = lower(first[j]);
          const float x1 = upper(first[j]);
          const float weight = w[i][j % 2];
          if constexpr (kGated)
            first[j] = round_pair(weight * x0 * sigmoid(x0) * lower(second[j]),
                                  weight * x1 * sigmoid(x1) * upper(second[j]));
          else
            first[j] = round_pair(weight * x0 * Gelu::gate(x0), weight * x1 * Gelu::gate(x1));
        }
        writer.write(first, part.lane, [&](int r) { return ordered_row(p.a, p.ffn, part, i, r, column); });
      }
    }
  }
};

// Given da = dy W2: dh = w da act'(h), a = w act(h) for dW2, and per row and tile the partial sum of <da,
// act(h)>. h comes through the ring behind the products' stages: columns of half a tile a stage, of swiglu
// the gate's and then the up part's.
template <typename Shape, Activation kActivation>
struct ActivationGradient {
  static constexpr bool kGated = kActivation == Activation::swiglu;
  static constexpr int kHalf = Shape::kColumns / 2;
  static constexpr int kParts = kGated ? 2 : 1;
  static constexpr int kStages = 2 * kParts;
  static_assert(kHalf * Shape::kRows * 2 <= Shape::kStageBytes);

  struct Parameters {
    CUtensorMap h;         // [R, I'], boxes of 64 x 64
    bf16* dh;              // [R, I']
    bf16* a;               // [R, I]
    const float* weights;  // [R], or null
    float* partial_sums;   // [column blocks, R], or null
    int ffn;               // I
    int total;             // R
  };

  // Loads stage s of them; by one thread, which has announced bytes_of_stage().
  static __device__ int bytes_of_stage(int blocks) { return kHalf / kDepth * blocks * kBlockBytes; }
  static __device__ void load(const Parameters& p, int s, int row, int blocks, int column, std::uint32_t to,
                              std::uint32_t barrier) {
    const int x = column + s / kParts * kHalf + s % kParts * p.ffn;
    for (int c = 0; c < kHalf / kDepth; ++c)
      for (int b = 0; b < blocks; ++b)
        copy_box(to + (c * Shape::kRows / kBlockRows + b) * kBlockBytes, &p.h, x + c * kDepth,
                 row + b * kBlockRows, barrier);
  }

  static __device__ void store(const Parameters& p, float (&sums)[Shape::kBlocks][Shape::kSums], int active,
                               const Part& part, PieceWriter& writer, Ring<Shape>& ring) {
    const int width = kParts * p.ffn;
    float w[Shape::kBlocks][2];
    float dot[Shape::kBlocks][2] = {};
    read_weights(p.weights, part, active, w);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int stages[kParts];
      std::uint32_t at[kParts];
#pragma unroll
      for (int k = 0; k < kParts; ++k) {
        ring.wait_full();
        stages[k] = ring.stage();
        at[k] = ring.address();
        ring.advance();
      }
#pragma unroll
      for (int i = 0; i < Shape::kBlocks; ++i) {
        if (i >= active) break;
#pragma unroll
        for (int c = 0; c < kHalf / kPieceColumns; ++c) {
          const int column = part.column + half * kHalf + c * kPieceColumns;
          if (column >= p.ffn) break;
          Piece dh;
          Piece a;
          Piece dup;
#pragma unroll
          for (int j = 0; j < 16; ++j) {
            const int row = part.first(i) + part.lane / 4 + j % 2 * 8;
            const int place = c * Shape::kRows * kRowBytes + swizzled(row, j / 2) + part.lane % 4 * 4;
            const std::uint32_t x = load_shared_4(at[0] + place);
            const int s = half * Shape::kSums / 2 + c * 32 + 2 * j;
            const float da0 = sums[i][s];
            const float da1 = sums[i][s + 1];
            const float weight = w[i][j % 2];
            const float x0 = lower(x);
            const float x1 = upper(x);
            if constexpr (kGated) {
              const std::uint32_t up = load_shared_4(at[kParts - 1] + place);
              const float s0 = sigmoid(x0);
              const float s1 = sigmoid(x1);
              const float silu0 = x0 * s0;
              const float silu1 = x1 * s1;
              const float a0 = silu0 * lower(up);
              const float a1 = silu1 * upper(up);
              dot[i][j % 2] += da0 * a0 + da1 * a1;
              a[j] = round_pair(weight * a0, weight * a1);
              dh[j] = round_pair(weight * da0 * lower(up) * (s0 + silu0 * (1.0F - s0)),
                                 weight * da1 * upper(up) * (s1 + silu1 * (1.0F - s1)));
              dup[j] = round_pair(weight * da0 * silu0, weight * da1 * silu1);
            } else {
              const float s0 = Gelu::gate(x0);
              const float s1 = Gelu::gate(x1);
              const float a0 = x0 * s0;
              const float a1 = x1 * s1;
              dot[i][j % 2] += da0 * a0 + da1 * a1;
              a[j] = round_pair(weight * a0, weight * a1);
              dh[j] = round_pair(weight * da0 * Gelu::derivative(x0, s0),
                                 weight * da1 * Gelu::derivative(x1, s1));
            }
          }
          writer.write(dh, part.lane, [&](int r) { return ordered_row(p.dh, width, part, i, r, column); });
          if constexpr (kGated)
            writer.write(dup, part.lane,
                         [&](int r) { return ordered_row(p.dh, width, part, i, r, p.ffn + column); });
          writer.write(a, part.lane, [&](int r) { return ordered_row(p.a, p.ffn, part, i, r, column); });
        }
      }
#pragma unroll
      for (int k = 0; k < kParts; ++k) {
        warp_barrier();
        release(ring, stages[k]);
      }
    }
    if (p.partial_sums == nullptr) return;
#pragma unroll
    for (int i = 0; i < Shape::kBlocks; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float sum = dot[i][k];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        const int r = part.first(i) + part.lane / 4 + 8 * k;
        if (part.lane % 4 == 0 && i < active && r < part.rows)
          p.partial_sums[std::int64_t{part.column_block} * p.total + part.row + r] = sum;
      }
  }
};

}  // namespace xmoe::gpu::hopper
