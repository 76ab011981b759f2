#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "device/fill_emulated.h"
#include "device/gpu_emulated.h"

#if defined(XMOE_ADDRESS_SANITIZED)
#include <sanitizer/lsan_interface.h>
#endif

namespace {

constexpr std::size_t kAlignment = 256;  // what the vendors give

}  // namespace

emulatedError_t emulatedRuntimeGetVersion(int* version) {
  *version = 1000;
  return emulatedSuccess;
}

emulatedError_t emulatedDriverGetVersion(int* version) { return emulatedRuntimeGetVersion(version); }

// An empty list of devices hides it, as it does the vendor's.
emulatedError_t emulatedGetDeviceCount(int* count) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  *count = visible != nullptr && *visible == '\0' ? 0 : 1;
  return emulatedSuccess;
}

// The least that kernels are written for.
emulatedError_t emulatedDeviceGetAttribute(int* value, emulatedDeviceAttr which, int) {
  *value = which == emulatedCapabilityMajor ? 8 : 0;
  return emulatedSuccess;
}

emulatedError_t emulatedMemGetInfo(std::size_t* free, std::size_t* total) {
  *total =
      static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  *free = *total;
  return emulatedSuccess;
}

emulatedError_t emulatedMalloc(void** data, std::size_t bytes) {
  std::size_t free = 0;
  std::size_t total = 0;
  emulatedMemGetInfo(&free, &total);
  if (bytes > free || ::posix_memalign(data, kAlignment, bytes) != 0) return emulatedErrorMemoryAllocation;
  xmoe::gpu::emulated::fill_unwritten(*data, bytes);
  return emulatedSuccess;
}

emulatedError_t emulatedHostAlloc(void** data, std::size_t bytes, emulatedFlags) {
  if (::posix_memalign(data, kAlignment, bytes) != 0) return emulatedErrorMemoryAllocation;
#if defined(XMOE_ADDRESS_SANITIZED)
  __lsan_ignore_object(*data);  // pinned memory may live as long as the process
#endif
  return emulatedSuccess;
}

emulatedError_t emulatedFree(void* data) {
  std::free(data);
  return emulatedSuccess;
}

emulatedError_t emulatedFreeHost(void* data) { return emulatedFree(data); }

emulatedError_t emulatedMemsetAsync(void* data, int byte, std::size_t bytes, emulatedStream_t) {
  std::memset(data, byte, bytes);
  return emulatedSuccess;
}

emulatedError_t emulatedMemcpyAsync(void* to, const void* from, std::size_t bytes, emulatedMemcpyKind,
                                    emulatedStream_t) {
  std::memcpy(to, from, bytes);
  return emulatedSuccess;
}

const char* emulatedGetErrorName(emulatedError_t status) {
  return status == emulatedErrorMemoryAllocation ? "emulatedErrorMemoryAllocation" : "emulatedError";
}

const char* emulatedGetErrorString(emulatedError_t status) {
  return status == emulatedErrorMemoryAllocation ? "out of memory" : "unknown error";
}
