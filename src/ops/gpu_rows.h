// Reads and writes of 16 bytes a thread, sums over warps and blocks, and the shapes of blocks that several
// GPU kernels share.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "device/context.h"
#include "device/gpu.h"

namespace xmoe::gpu {

// Enough to hide the latency of memory at 8 blocks a multiprocessor, few enough for short rows.
inline constexpr int kBlockThreads = 256;
// Elements that a thread handles at a time: 16 bytes of bf16 or f16, twice 16 of f32.
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

// N elements of T as they lie in memory, in words. Two of 16 bits share one, the lower first: taking them
// apart by shifts costs an instruction an element, where members of 16 bits cost several.
template <typename T, int N>
struct Raw {
  static constexpr int kBytes = N * static_cast<int>(sizeof(T));
  unsigned words[(kBytes + 3) / 4] = {};
};

// In accesses of at most 16 bytes, which `from` must be aligned for.
template <int N, typename T>
__device__ Raw<T, N> load_raw(const T* from) {
  Raw<T, N> raw;
  if constexpr (Raw<T, N>::kBytes == 2) {
    raw.words[0] = *reinterpret_cast<const std::uint16_t*>(from);
  } else if constexpr (Raw<T, N>::kBytes == 4) {
    raw.words[0] = *reinterpret_cast<const unsigned*>(from);
  } else if constexpr (Raw<T, N>::kBytes == 8) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    raw.words[0] = v.x;
    raw.words[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < Raw<T, N>::kBytes / 16; ++i) {
      const uint4 v = reinterpret_cast<const uint4*>(from)[i];
      raw.words[4 * i] = v.x;
      raw.words[4 * i + 1] = v.y;
      raw.words[4 * i + 2] = v.z;
      raw.words[4 * i + 3] = v.w;
    }
  }
  return raw;
}

template <typename T, int N>
__device__ void to_floats(const Raw<T, N>& raw, float (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      to[i] = __uint_as_float(raw.words[i]);
    } else {
      const unsigned word = raw.words[i / 2];
      to[i] = i % 2 == 0 ? lower<T>(word) : upper<T>(word);
    }
  }
}

template <int N, typename T>
__device__ void load(const T* from, float (&to)[N]) {
  to_floats(load_raw<N>(from), to);
}

// In accesses of at most 16 bytes, which `to` must be aligned for.
template <typename T, int N>
__device__ void store_raw(const Raw<T, N>& raw, T* to) {
  if constexpr (Raw<T, N>::kBytes == 2) {
    *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(raw.words[0]);
  } else if constexpr (Raw<T, N>::kBytes == 4) {
    *reinterpret_cast<unsigned*>(to) = raw.words[0];
  } else if constexpr (Raw<T, N>::kBytes == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(raw.words[0], raw.words[1]);
  } else {
#pragma unroll
    for (int i = 0; i < Raw<T, N>::kBytes / 16; ++i)
      reinterpret_cast<uint4*>(to)[i] =
          make_uint4(raw.words[4 * i], raw.words[4 * i + 1], raw.words[4 * i + 2], raw.words[4 * i + 3]);
  }
}

template <int N, typename T>
__device__ void store(const float (&from)[N], T* to) {
  if constexpr (N == 1) {
    round_to(from[0], *to);
  } else {
    Raw<T, N> raw;
#pragma unroll
    for (int i = 0; i < N; i += 4 / static_cast<int>(sizeof(T))) {
      if constexpr (std::is_same_v<T, float>)
        raw.words[i] = __float_as_uint(from[i]);
      else
        raw.words[i / 2] = round_pair<T>(from[i], from[i + 1]);
    }
    store_raw(raw, to);
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
