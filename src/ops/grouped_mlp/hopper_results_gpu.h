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

  // First row of the warp's 16, in the tile.
  __device__ int first() const { return consumer * kBlockRows + warp * 16; }
};

// Results are of T, bf16 or f16; where they only move, any 16 bits.
using Half = std::uint16_t;

// 16 rows by 64 columns of a warp, two of T in a word: words[2 j] of the upper eight rows and columns 8 j,
// words[2 j + 1] of the lower.
using Piece = std::uint32_t[16];

// The rows that a lane writes of the warp's sixteen are l / 8 + 4 q, q = 0 to 3, of each 16 bytes: where they
// go.
class OrderedRows {  // as they are, in a matrix of `width` columns
 public:
  __device__ OrderedRows(Half* matrix, int width, const Part& part)
      : at_(matrix + static_cast<std::int64_t>(part.row + part.first() + part.lane / 8) * width +
            part.column + part.lane % 8 * 8),
        step_(4 * width),
        rows_(part.rows - part.first() - part.lane / 8) {}
  __device__ Half* row(int q) const { return at_ + q * static_cast<std::int64_t>(step_); }
  __device__ bool has(int q) const { return 4 * q < rows_; }

 private:
  Half* at_;
  int step_;  // elements between the lane's rows
  int rows_;
};

class ScatteredRows {  // by index
 public:
  __device__ ScatteredRows(const PairRows& to, const Part& part) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int r = part.first() + part.lane / 8 + 4 * q;
      at_[q] = r >= part.rows ? nullptr
                              : reinterpret_cast<Half*>(to.row_at(to.index_of(part.row + r))) + part.column +
                                    part.lane % 8 * 8;
    }
  }
  __device__ Half* row(int q) const { return at_[q]; }
  __device__ bool has(int q) const { return at_[q] != nullptr; }

 private:
  Half* at_[4];
};

// From shared memory, swizzled rows of 128 bytes, to memory; `offset`: columns from the rows' addresses.
template <typename Rows>
__device__ inline void write_rows(std::uint32_t from, int lane, const Rows& rows, std::int64_t offset) {
  const std::uint32_t mine = from + swizzled(lane / 8, lane % 8);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const uint4 v = load_shared_16((mine ^ (q % 2 * 4 << 4)) + q * 4 * kRowBytes);
    if (rows.has(q)) *reinterpret_cast<uint4*>(rows.row(q) + offset) = v;
  }
}

// The warp's two buffers for results. They take turns: a warp's barrier between writing and reading one also
// ends all reading of the other.
class Staging {
 public:
  __device__ explicit Staging(std::uint32_t address) : address_(address) {}

  __device__ std::uint32_t address() const { return address_; }
  __device__ void turn() {
    address_ += to_other_;
    to_other_ = -to_other_;
  }
  template <typename Rows>
  __device__ void write(const Piece& words, int lane, const Rows& rows, std::int64_t offset) {
    const std::uint32_t mine = address_ + swizzled(lane / 8 % 2 * 8 + lane % 8, lane / 16);
#pragma unroll
    for (int q = 0; q < 4; ++q)
      store_matrices(mine ^ (2 * q << 4), words[4 * q], words[4 * q + 1], words[4 * q + 2], words[4 * q + 3]);
    warp_barrier();
    write_rows(address_, lane, rows, offset);
    turn();
  }

 private:
  std::uint32_t address_;
  int to_other_ = kPieceBytes;
};

template <typename T, int kCount>
__device__ inline void pack(const float (&sums)[kCount], int first, Piece& words) {
#pragma unroll
  for (int j = 0; j < 16; ++j) words[j] = round_pair<T>(sums[first + 2 * j], sums[first + 2 * j + 1]);
}

constexpr float kLog2E = 1.4426950409F;

// 1 / (1 + 2^x), exact to a few units of f32's last place.
__device__ inline float inverse_of_one_plus_exp2(float x) {
  float power;
  float inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0F + power));
  return inverse;
}

__device__ inline float sigmoid(float x) { return inverse_of_one_plus_exp2(-kLog2E * x); }

struct Gelu {  // the tanh form; (1 + tanh(u)) / 2 = sigmoid(2 u)
  static constexpr float kTwiceSqrt2OverPi = 1.5957691216F;
  static constexpr float kCubic = 0.044715F * kTwiceSqrt2OverPi;
  static __device__ float gate(float x) {
    return inverse_of_one_plus_exp2(x * (-kLog2E * kTwiceSqrt2OverPi - kLog2E * kCubic * (x * x)));
  }
  // Given s, the gate of x, and a = x s.
  static __device__ float derivative(float x, float s, float a) {
    return s + (a - a * s) * (kTwiceSqrt2OverPi + 3.0F * kCubic * (x * x));
  }
};

// What h, or its gate part, is multiplied by.
template <Activation kActivation>
__device__ inline float gate(float h) {
  return kActivation == Activation::swiglu ? sigmoid(h) : Gelu::gate(h);
}

// Combine weights of the two rows that a thread holds sums of.
struct TwoWeights {
  float of[2];

  __device__ TwoWeights(const float* weights, const Part& part) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int r = part.first() + part.lane / 4 + 8 * k;
      of[k] = weights != nullptr && r < part.rows ? __ldg(weights + part.row + r) : 1.0F;
    }
  }
};

// y and dx: every row goes where its index says.
template <typename T>
struct Scatter {
  using Element = T;

  struct Parameters {
    PairRows to;
  };
  static constexpr int kExtraStages = 0;

  static __device__ void store(const Parameters& p, const float (&sums)[kSums], const Part& part,
                               Staging& staging, Ring&) {
    const int columns = p.to.row_bytes / 2 - part.column;
    const ScatteredRows rows(p.to, part);
#pragma unroll
    for (int c = 0; c < kColumns / kPieceColumns; ++c) {
      if (c * kPieceColumns >= columns) break;
      Piece words;
      pack<T>(sums, c * 32, words);
      staging.write(words, part.lane, rows, c * kPieceColumns);
    }
  }
};

// h and, unless `a` is null, a = w act(h), formed from h as it was rounded: backward reads no other.
template <typename T, Activation kActivation>
struct Activate {
  using Element = T;
  struct Parameters {
    Half* h;               // [R, I']
    Half* a;               // [R, I]
    const float* weights;  // [R], or null
    int ffn;               // I
  };
  static constexpr int kExtraStages = 0;

  static __device__ void store(const Parameters& p, const float (&sums)[kSums], const Part& part,
                               Staging& staging, Ring&) {
    constexpr bool kGated = kActivation == Activation::swiglu;  // the tile's halves are gate and up
    constexpr int kPieces = kColumns / kPieceColumns / (kGated ? 2 : 1);
    const OrderedRows h(p.h, kGated ? 2 * p.ffn : p.ffn, part);
    const OrderedRows a(p.a, p.ffn, part);
    const TwoWeights w(p.weights, part);
#pragma unroll
    for (int c = 0; c < kPieces; ++c) {
      if (part.column + c * kPieceColumns >= p.ffn) break;
      Piece first;
      Piece second;
      pack<T>(sums, c * 32, first);
      staging.write(first, part.lane, h, c * kPieceColumns);
      if constexpr (kGated) {
        pack<T>(sums, (kPieces + c) * 32, second);
        staging.write(second, part.lane, h, p.ffn + c * kPieceColumns);
      }
      if (p.a == nullptr) continue;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const float weight = w.of[j % 2];
        const auto activated = [&](float x, float up) { return weight * x * gate<kActivation>(x) * up; };
        first[j] = round_pair<T>(activated(lower<T>(first[j]), kGated ? lower<T>(second[j]) : 1.0F),
                                 activated(upper<T>(first[j]), kGated ? upper<T>(second[j]) : 1.0F));
      }
      staging.write(first, part.lane, a, c * kPieceColumns);
    }
  }
};

// Given da = dy W2: dh = w da act'(h), a = w act(h) for dW2, and per row and tile the partial sum of <da,
// act(h)>. h comes through the ring behind the products' stages: columns of half a tile a stage, of swiglu
// the gate's and then the up part's. A thread writes dh where it read h, and from there rows go to memory.
template <typename T, Activation kActivation>
struct ActivationGradient {
  using Element = T;
  static constexpr bool kGated = kActivation == Activation::swiglu;
  static constexpr int kHalf = kColumns / 2;
  static constexpr int kParts = kGated ? 2 : 1;
  static constexpr int kExtraStages = 2 * kParts;
  static_assert(kHalf * kRows * 2 <= kStageBytes);

  struct Parameters {
    CUtensorMap h;         // [R, I'], boxes of 64 x 64
    Half* dh;              // [R, I']
    Half* a;               // [R, I]
    const float* weights;  // [R], or null
    float* partial_sums;   // [column blocks, R], or null
    int ffn;               // I
    int total;             // R
  };

  // By one thread: asks for the tile's h ahead of its turn, and loads stage s of it, which is
  // bytes_of_stage().
  static __device__ void prefetch(const Parameters& p, int row, int blocks, int column) {
    for (int s = 0; s < kExtraStages; ++s)
      for (int c = 0; c < kHalf / kDepth; ++c)
        for (int b = 0; b < blocks; ++b)
          prefetch_box(&p.h, column_of(p, s, column) + c * kDepth, row + b * kBlockRows);
  }
  static __device__ int bytes_of_stage(int blocks) { return kHalf / kDepth * blocks * kBlockBytes; }
  static __device__ void load(const Parameters& p, int s, int row, int blocks, int column, std::uint32_t to,
                              std::uint32_t barrier) {
    for (int c = 0; c < kHalf / kDepth; ++c)
      for (int b = 0; b < blocks; ++b)
        copy_box(to + c * kRows * kRowBytes + b * kBlockBytes, &p.h, column_of(p, s, column) + c * kDepth,
                 row + b * kBlockRows, barrier);
  }

  static __device__ void store(const Parameters& p, const float (&sums)[kSums], const Part& part,
                               Staging& staging, Ring& ring) {
    const OrderedRows dh_rows(p.dh, kParts * p.ffn, part);
    const OrderedRows a_rows(p.a, p.ffn, part);
    const TwoWeights w(p.weights, part);
    float dot[2] = {};
    // A thread's words of sixteen rows: this, and the pieces of its row by exclusive or.
    const int place = swizzled(part.lane / 4, 0) + part.lane % 4 * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int stages[kParts];
      std::uint32_t at[kParts];
#pragma unroll
      for (int k = 0; k < kParts; ++k) {
        ring.wait_full();
        stages[k] = ring.stage();
        at[k] = ring.address() + part.first() * kRowBytes;
        ring.advance();
      }
#pragma unroll
      for (int c = 0; c < kHalf / kPieceColumns; ++c) {
        const int offset = half * kHalf + c * kPieceColumns;
        if (part.first() >= part.rows || part.column + offset >= p.ffn) break;
        constexpr int kPieceOfStage = kRows * kRowBytes;
        const auto word = [&](std::uint32_t base, int j) {
          return ((base + place) ^ (j / 2 << 4)) + j % 2 * 8 * kRowBytes;
        };
        Piece x[kParts];
#pragma unroll
        for (int k = 0; k < kParts; ++k)
#pragma unroll
          for (int j = 0; j < 16; ++j) x[k][j] = load_shared_4(word(at[k] + c * kPieceOfStage, j));
#pragma unroll
        for (int j = 0; j < 16; ++j) {
          const int s = half * kSums / 2 + c * 32 + 2 * j;
          const float weight = w.of[j % 2];
          const Gradient g0 = gradient(weight, sums[s], lower<T>(x[0][j]), lower<T>(x[kParts - 1][j]));
          const Gradient g1 = gradient(weight, sums[s + 1], upper<T>(x[0][j]), upper<T>(x[kParts - 1][j]));
          dot[j % 2] += g0.dot + g1.dot;
          store_shared_4(word(at[0] + c * kPieceOfStage, j), round_pair<T>(g0.first, g1.first));
          if constexpr (kGated)
            store_shared_4(word(at[1] + c * kPieceOfStage, j), round_pair<T>(g0.second, g1.second));
          store_shared_4(word(staging.address(), j), round_pair<T>(g0.a, g1.a));
        }
        warp_barrier();
        write_rows(at[0] + c * kPieceOfStage, part.lane, dh_rows, offset);
        if constexpr (kGated) write_rows(at[1] + c * kPieceOfStage, part.lane, dh_rows, p.ffn + offset);
        write_rows(staging.address(), part.lane, a_rows, offset);
        staging.turn();
      }
      shared_proxy_fence();  // the copy engine writes there next
      warp_barrier();
#pragma unroll
      for (int k = 0; k < kParts; ++k) release(ring, stages[k]);
    }
    if (p.partial_sums == nullptr) return;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float sum = dot[k];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      const int r = part.first() + part.lane / 4 + 8 * k;
      if (part.lane % 4 == 0 && r < part.rows)
        p.partial_sums[static_cast<std::int64_t>(part.column_block) * p.total + part.row + r] = sum;
    }
  }

 private:
  struct Gradient {
    float a, dot;
    float first, second;  // of h, or of the gate and of the up part
  };

  static __device__ Gradient gradient(float weight, float da, float x, float up) {
    const float d = weight * da;
    const float s = gate<kActivation>(x);
    if constexpr (kGated) {
      const float silu = x * s;
      const float a = silu * up;
      return {weight * a, da * a, d * up * (s + (silu - silu * s)), d * silu};
    } else {
      const float a = x * s;
      return {weight * a, da * a, d * Gelu::derivative(x, s, a), 0.0F};
    }
  }
  static __device__ int column_of(const Parameters& p, int stage, int column) {
    return column + stage / kParts * kHalf + stage % kParts * p.ffn;
  }
};

}  // namespace xmoe::gpu::hopper
