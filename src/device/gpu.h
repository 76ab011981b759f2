// The vendor's runtime under this project's names, and what every kernel needs: the launch, the warp, faults.
// Included by *_gpu.cu only. One source serves CUDA and HIP, whose names differ in the prefix, and the GPU
// that is emulated on the host.
#pragma once

#if defined(XMOE_GPU_EMULATED)
#include "device/gpu_emulated.h"
#define XMOE_GPU_NAME(name) emulated##name
#elif defined(__HIP_PLATFORM_AMD__)
#include <hip/hip_bf16.h>
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>
#define XMOE_GPU_NAME(name) hip##name
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define XMOE_GPU_NAME(name) cuda##name
#endif

// Defined in code for Hopper's own instructions (sm_90a). Kernels that need them are empty elsewhere.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define XMOE_HOPPER_CODE
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "base/dtype.h"
#include "device/device.h"

namespace xmoe::gpu {

using Status = XMOE_GPU_NAME(Error_t);
using Stream = XMOE_GPU_NAME(Stream_t);
using EventHandle = XMOE_GPU_NAME(Event_t);
using Grid = dim3;
using Block = dim3;

#if defined(XMOE_GPU_EMULATED)
inline constexpr int kWarpSize = XMOE_EMULATED_WARP;
inline constexpr auto kCapabilityMajor = emulatedCapabilityMajor;
inline constexpr auto kCapabilityMinor = emulatedCapabilityMinor;
#elif defined(__HIP_PLATFORM_AMD__)
inline constexpr int kWarpSize = 64;  // gfx90a
inline constexpr auto kCapabilityMajor = hipDeviceAttributeComputeCapabilityMajor;
inline constexpr auto kCapabilityMinor = hipDeviceAttributeComputeCapabilityMinor;
#else
inline constexpr int kWarpSize = 32;
inline constexpr auto kCapabilityMajor = cudaDevAttrComputeCapabilityMajor;
inline constexpr auto kCapabilityMinor = cudaDevAttrComputeCapabilityMinor;
#endif

// Throws Error with the vendor's name of the error and `what` was done.
void check(Status status, const char* what);

// Makes the device the calling thread's and returns its stream.
Stream stream(const Device& device);

// What a kernel found wrong in its arguments, which it cannot throw: it writes the first fault to the slot of
// its device, leaves the offending element out, and the host throws at the next synchronize() or copy to its
// memory.
struct FaultKind {
  const char* text;  // may name {position}, {value} and {bound}
  bool defect;       // ours (InvariantError), else the user's (Error)
};
struct Fault {
  unsigned long long kind;  // const FaultKind*, in host memory; 0: none
  long long position, value, bound;
};
class FaultReport {
 public:
  FaultReport(const Device& device, const FaultKind& kind);

  __device__ void raise(long long position, long long value, long long bound) const {
    if (atomicCAS(&slot_->kind, 0ULL, kind_) != 0ULL) return;
    slot_->position = position;
    slot_->value = value;
    slot_->bound = bound;
    __threadfence_system();
  }

 private:
  Fault* slot_;  // host memory that the device writes to
  unsigned long long kind_;
};

// Of kernels on a GPU; the emulation has a launch of its own.
void launch_checked(const void* kernel, Grid grid, Block block, void** arguments, std::size_t shared_bytes,
                    Stream stream);

// The one way to launch a kernel. A grid without blocks is no work.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, Block block, std::size_t shared_bytes, Stream stream,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
#if defined(XMOE_GPU_EMULATED)
  static_cast<void>(stream);
  emulated::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                   [&] { std::apply(kernel, values); });
#else
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)...};
        launch_checked(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream);
      },
      values);
#endif
}

// The shared memory that the launch asked for, aligned for the widest accesses.
template <typename T>
__device__ T* dynamic_shared() {
#if defined(XMOE_GPU_EMULATED)
  return static_cast<T*>(emulated::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char xmoe_dynamic_shared[];
  return reinterpret_cast<T*>(xmoe_dynamic_shared);
#endif
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ inline float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline void round_to(float value, float& to) { to = value; }
__device__ inline void round_to(float value, bf16& to) {
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

__device__ inline void round_to(float value, f16& to) { to.bits = __half_as_ushort(__float2half_rn(value)); }

// Two numbers of T, of 16 bits each, in one word as they lie in memory, and the two of a word.
template <typename T>
__device__ unsigned round_pair(float first, float second) {
  if constexpr (std::is_same_v<T, f16>) {
    const auto pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const unsigned*>(&pair);
  } else {
    const auto pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
}
template <typename T>
__device__ float lower(unsigned word) {
  if constexpr (std::is_same_v<T, f16>)
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffffU)));
  else
    return __uint_as_float(word << 16);
}
template <typename T>
__device__ float upper(unsigned word) {
  if constexpr (std::is_same_v<T, f16>)
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
  else
    return __uint_as_float(word & 0xffff0000U);
}

template <typename T>
__device__ T shuffle_xor(T value, int lane_mask) {
#if defined(XMOE_GPU_EMULATED)
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulated::shuffle_xor(bits, lane_mask);
  std::memcpy(&value, &bits, sizeof value);
  return value;
#elif defined(__HIP_PLATFORM_AMD__)
  return __shfl_xor(value, lane_mask);
#else
  return __shfl_xor_sync(0xffffffffU, value, lane_mask);
#endif
}

// A bit for each lane of the warp whose predicate holds; all its lanes call it together.
__device__ inline unsigned long long ballot(bool predicate) {
#if defined(XMOE_GPU_EMULATED)
  return emulated::ballot(predicate);
#elif defined(__HIP_PLATFORM_AMD__)
  return __ballot(predicate);
#else
  return __ballot_sync(0xffffffffU, predicate);
#endif
}

// What lanes of the warp wrote before it, the others may read behind it.
__device__ inline void warp_barrier() {
#if defined(XMOE_GPU_EMULATED)
  emulated::warp_barrier();
#elif defined(__HIP_PLATFORM_AMD__)
  __threadfence_block();
  __builtin_amdgcn_wave_barrier();
#else
  __syncwarp();
#endif
}

}  // namespace xmoe::gpu
