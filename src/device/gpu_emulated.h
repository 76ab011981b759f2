// A GPU emulated on the host, for machines without one: what gpu.h needs of a vendor's headers, that is the
// dialect of kernels, and the runtime under names of its own. Device memory is the host's, and what is queued
// on a stream runs at once. docs/kernels.md says what this finds and what it cannot.
#pragma once

#include <math.h>  // kernels call its functions by their global names

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "base/dtype.h"

// --- The dialect, which both vendors share.

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after another, so that one place serves all. They lie together, so that every launch can
// fill them with what no kernel wrote.
#define __shared__ static __attribute__((section("xmoe_shared")))

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the vendors' names
struct uint2 {
  alignas(8) unsigned x;
  unsigned y;
};
struct uint4 {
  alignas(16) unsigned x;
  unsigned y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Of the thread that runs.
inline dim3 threadIdx;
inline dim3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
// Nothing contracts products and sums: CMake sees to it.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0F / sqrtf(x); }
#define __expf(x) expf(x)

inline xmoe::bf16 __float2bfloat16_rn(float x) { return xmoe::bf16(x); }
inline std::uint16_t __bfloat16_as_ushort(xmoe::bf16 x) { return x.bits; }
inline xmoe::f16 __float2half_rn(float x) { return xmoe::f16(x); }
inline std::uint16_t __half_as_ushort(xmoe::f16 x) { return x.bits; }
inline xmoe::f16 __ushort_as_half(std::uint16_t bits) { return std::bit_cast<xmoe::f16>(bits); }
inline float __half2float(xmoe::f16 x) { return static_cast<float>(x); }
template <typename T>
struct EmulatedPair {
  alignas(4) T x;
  T y;
};
inline EmulatedPair<xmoe::bf16> __floats2bfloat162_rn(float x, float y) {
  return {xmoe::bf16(x), xmoe::bf16(y)};
}
inline EmulatedPair<xmoe::f16> __floats2half2_rn(float x, float y) { return {xmoe::f16(x), xmoe::f16(y)}; }

// A thread runs until it waits: no other comes in between.
template <typename T>
T atomicAdd(T* place, T value) {
  const T before = *place;
  *place += value;
  return before;
}
template <typename T>
T atomicCAS(T* place, T expected, T value) {
  const T before = *place;
  if (before == expected) *place = value;
  return before;
}
inline void __threadfence_system() {}

namespace xmoe::gpu::emulated {

// Waits of the running thread for those of its block, or of its warp.
void block_barrier(const std::source_location& where);
void warp_barrier();
// The value (at most 8 bytes) that the lane `lane ^ lane_mask` brings.
std::uint64_t shuffle_xor(std::uint64_t value, int lane_mask);
unsigned long long ballot(bool predicate);

void* dynamic_shared();  // of the running kernel

// Runs call() for every thread of the grid; `kernel` names it in errors. Throws InvariantError where threads
// that should wait together do not, or where the launch exceeds what every GPU grants.
void launch(const void* kernel, const dim3& grid, const dim3& block, std::size_t shared_bytes,
            const std::function<void()>& call);

}  // namespace xmoe::gpu::emulated

inline void __syncthreads(const std::source_location& where = std::source_location::current()) {
  xmoe::gpu::emulated::block_barrier(where);
}

// --- The runtime, under the names of CUDA and HIP with a prefix of its own.

enum emulatedError_t { emulatedSuccess, emulatedErrorNoDevice, emulatedErrorMemoryAllocation };
using emulatedStream_t = struct CUstream_st*;  // as CUDA's, by which attention_cudnn_gpu.h names it
using emulatedEvent_t = struct EmulatedEvent*;
enum emulatedDeviceAttr { emulatedCapabilityMajor, emulatedCapabilityMinor };
enum emulatedMemcpyKind { emulatedMemcpyHostToDevice, emulatedMemcpyDefault };
enum emulatedFlags {
  emulatedStreamNonBlocking,
  emulatedHostAllocMapped,
  emulatedHostAllocDefault,
  emulatedEventDisableTiming
};

emulatedError_t emulatedRuntimeGetVersion(int* version);
emulatedError_t emulatedDriverGetVersion(int* version);
emulatedError_t emulatedGetDeviceCount(int* count);
emulatedError_t emulatedDeviceGetAttribute(int* value, emulatedDeviceAttr which, int device);
emulatedError_t emulatedMemGetInfo(std::size_t* free, std::size_t* total);
emulatedError_t emulatedMalloc(void** data, std::size_t bytes);
emulatedError_t emulatedHostAlloc(void** data, std::size_t bytes, emulatedFlags flags);
emulatedError_t emulatedFree(void* data);
emulatedError_t emulatedFreeHost(void* data);
emulatedError_t emulatedMemsetAsync(void* data, int byte, std::size_t bytes, emulatedStream_t stream);
emulatedError_t emulatedMemcpyAsync(void* to, const void* from, std::size_t bytes, emulatedMemcpyKind kind,
                                    emulatedStream_t stream);
const char* emulatedGetErrorName(emulatedError_t status);
const char* emulatedGetErrorString(emulatedError_t status);

// There is nothing to choose, or to wait for.
inline emulatedError_t emulatedSetDevice(int) { return emulatedSuccess; }
inline emulatedError_t emulatedGetLastError() { return emulatedSuccess; }
inline emulatedError_t emulatedStreamCreateWithFlags(emulatedStream_t*, emulatedFlags) {
  return emulatedSuccess;
}
inline emulatedError_t emulatedStreamSynchronize(emulatedStream_t) { return emulatedSuccess; }
inline emulatedError_t emulatedEventCreateWithFlags(emulatedEvent_t*, emulatedFlags) {
  return emulatedSuccess;
}
inline emulatedError_t emulatedEventRecord(emulatedEvent_t, emulatedStream_t) { return emulatedSuccess; }
inline emulatedError_t emulatedEventSynchronize(emulatedEvent_t) { return emulatedSuccess; }
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace xmoe::gpu {

using std::max;
using std::min;

}  // namespace xmoe::gpu
