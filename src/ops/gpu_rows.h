// Reads and writes of 16 bytes a thread, sums over warps and blocks, and the shapes of blocks that several
// GPU kernels share.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "device/context.h"
#include "device/gpu.h"

namespace xmoe::gpu {

// Enough to hide the latency of memory at 8 blocks a multiprocessor, few enough for short rows.
inline constexpr int kBlockThreads = 256;
// Elements that a thread handles at a time: 16 bytes of bf16, twice 16 of f32.
inline constexpr int kPack = 8;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

inline constexpr std::int64_t kAccessBytes = 16;  // the widest access of a thread

inline bool aligned(std::initializer_list<const void*> data) {
  for (const void* p : data)
    if (reinterpret_cast<std::uintptr_t>(p) % kAccessBytes != 0) return false;
  return true;
}

// Whether rows of `width` elements can be read and written kPack at a time.
inline bool packable(std::int64_t width, std::initializer_list<const void*> data) {
  return width % kPack == 0 && aligned(data);
}

// Calls f with the number of elements of one access as a constant: kPack or 1.
template <typename F>
void with_pack(bool packed, F&& f) {
  if (packed)
    f.template operator()<kPack>();
  else
    f.template operator()<1>();
}

// Blocks for `items` of which each takes `per_block`.
inline Grid grid_of(std::int64_t items, std::int64_t per_block) {
  return Grid(static_cast<unsigned>(ceil_div(items, per_block)));
}

// Threads along a row (x, a power of two) and rows side by side (y) that make up kBlockThreads.
inline Block row_block(std::int64_t columns) {
  unsigned x = 1;
  while (x < columns && x < static_cast<unsigned>(kBlockThreads)) x *= 2;
  return Block(x, static_cast<unsigned>(kBlockThreads) / x);
}

// Of a grid and blocks of one dimension.
__device__ inline std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// N floats from N elements of T, in accesses of at most 16 bytes.
template <int N, typename T>
__device__ void load(const T* from, float (&to)[N]) {
  constexpr int kWidest = 16 / sizeof(T);
  constexpr int kStep = N < kWidest ? N : kWidest;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    const auto v = *reinterpret_cast<const Vector<T, kStep>*>(from + i);
#pragma unroll
    for (int j = 0; j < kStep; ++j) to[i + j] = to_float(v.at[j]);
  }
}

template <int N, typename T>
__device__ void store(const float (&from)[N], T* to) {
  constexpr int kWidest = 16 / sizeof(T);
  constexpr int kStep = N < kWidest ? N : kWidest;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    Vector<T, kStep> v;
#pragma unroll
    for (int j = 0; j < kStep; ++j) round_to(from[i + j], v.at[j]);
    *reinterpret_cast<Vector<T, kStep>*>(to + i) = v;
  }
}

// The sums of N values over the block, for all its threads. In the order of a tree that depends on the size
// of the block and of the warp alone. Threads along x only, whole warps; `partials` is shared memory for N
// values per warp. All threads of the block must call it.
template <int N, typename T>
__device__ void block_sums(T (&values)[N], T* partials) {
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int lane_mask = kWarpSize / 2; lane_mask > 0; lane_mask /= 2)
      values[i] += shuffle_xor(values[i], lane_mask);
  }
  __syncthreads();  // what an earlier call left in `partials` has been read
  if (threadIdx.x % kWarpSize == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) partials[warp * N + i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    values[i] = partials[i];
    for (int w = 1; w < warps; ++w) values[i] += partials[w * N + i];
  }
}

}  // namespace xmoe::gpu
