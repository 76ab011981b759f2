#include "device/device_gpu.h"

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "device/gpu.h"
#include "device/upload_gpu.h"

namespace xmoe::gpu {

namespace {

// Of what is copied to the host at once: as much as passes through pinned memory, since the driver takes tens
// of microseconds longer for memory that is not.
constexpr std::size_t kLandingBytes = std::size_t{64} << 10;

struct State {
  Stream stream = nullptr;
  Fault* fault = nullptr;
  std::byte* landing = nullptr;  // pinned
  Uploads uploads;
};

void require_usable(int index) {
  if (const std::string reason = why_unusable(facts(index), index); !reason.empty()) fail("{}", reason);
}

// Streams and fault slots live as long as the process: at its end the runtime may be gone before them.
State& state(int index) {
  static std::mutex mutex;
  static std::map<int, State> states;
  const std::lock_guard lock(mutex);
  if (const auto known = states.find(index); known != states.end()) {
    check(XMOE_GPU_NAME(SetDevice)(index), "choosing the device");
    return known->second;
  }
  require_usable(index);
  check(XMOE_GPU_NAME(SetDevice)(index), "choosing the device");
  State made;
  check(XMOE_GPU_NAME(StreamCreateWithFlags)(&made.stream, XMOE_GPU_NAME(StreamNonBlocking)),
        "creating a stream");
  const auto pinned = [](std::size_t bytes, auto flags) {
    void* memory = nullptr;
    check(XMOE_GPU_NAME(HostAlloc)(&memory, bytes, flags), "allocating pinned memory");
    return memory;
  };
  made.fault = static_cast<Fault*>(pinned(sizeof(Fault), XMOE_GPU_NAME(HostAllocMapped)));
  *made.fault = {};
  made.landing = static_cast<std::byte*>(pinned(kLandingBytes, XMOE_GPU_NAME(HostAllocDefault)));
  return states.emplace(index, std::move(made)).first->second;
}

// Throws the fault that kernels have left, once.
void throw_fault(State& state) {
  const Fault fault = *state.fault;
  if (fault.kind == 0) return;
  *state.fault = {};
  const auto& kind = *reinterpret_cast<const FaultKind*>(fault.kind);
  const std::string message = fmt::format(fmt::runtime(kind.text), fmt::arg("position", fault.position),
                                          fmt::arg("value", fault.value), fmt::arg("bound", fault.bound));
  if (kind.defect) throw InvariantError(message);
  throw Error(message);
}

double gibibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

int attribute(XMOE_GPU_NAME(DeviceAttr) which, int index) {
  int value = 0;
  check(XMOE_GPU_NAME(DeviceGetAttribute)(&value, which, index), "asking for a property of the GPU");
  return value;
}

}  // namespace

void check(Status status, const char* what) {
  if (status == XMOE_GPU_NAME(Success)) return;
  fail("GPU error while {}: {} ({})", what, XMOE_GPU_NAME(GetErrorString)(status),
       XMOE_GPU_NAME(GetErrorName)(status));
}

Facts facts(int index) {
  Facts f;
  check(XMOE_GPU_NAME(RuntimeGetVersion)(&f.runtime_version), "asking for the runtime's version");
  // Without a driver, or with one that is too old, the calls that follow fail; the versions say it better.
  if (XMOE_GPU_NAME(DriverGetVersion)(&f.driver_version) != XMOE_GPU_NAME(Success)) f.driver_version = 0;
  const Status status = XMOE_GPU_NAME(GetDeviceCount)(&f.gpus);
  static_cast<void>(XMOE_GPU_NAME(GetLastError)());  // it is answered here
  if (status == XMOE_GPU_NAME(ErrorNoDevice)) {
    f.gpus = 0;
  } else if (status != XMOE_GPU_NAME(Success)) {
    f.error = XMOE_GPU_NAME(GetErrorString)(status);
  }
  if (status == XMOE_GPU_NAME(Success) && 0 <= index && index < f.gpus) {
    f.capability_major = attribute(kCapabilityMajor, index);
    f.capability_minor = attribute(kCapabilityMinor, index);
  }
  return f;
}

Stream stream(const Device& device) { return state(device.index).stream; }

FaultReport::FaultReport(const Device& device, const FaultKind& kind)
    : slot_(state(device.index).fault), kind_(reinterpret_cast<unsigned long long>(&kind)) {}

DeviceMemory memory(const Device& device) {
  state(device.index);
  DeviceMemory found;
  check(XMOE_GPU_NAME(MemGetInfo)(&found.free, &found.total), "asking for free memory");
  return found;
}

void* allocate(const Device& device, std::size_t bytes, std::string_view purpose) {
  state(device.index);
  void* data = nullptr;
  const Status status = XMOE_GPU_NAME(Malloc)(&data, bytes);
  if (status == XMOE_GPU_NAME(ErrorMemoryAllocation)) {
    static_cast<void>(XMOE_GPU_NAME(GetLastError)());  // it is answered here
    const DeviceMemory now = memory(device);
    fail("out of memory on {}: {:.2f} GiB were asked for{}{}, {:.2f} of {:.2f} GiB are free", name_of(device),
         gibibytes(bytes), purpose.empty() ? "" : ", for ", purpose, gibibytes(now.free),
         gibibytes(now.total));
  }
  check(status, "allocating memory");
  return data;
}

void free(const Device&, void* data) noexcept { static_cast<void>(XMOE_GPU_NAME(Free)(data)); }

void fill(const Device& device, void* data, int byte, std::size_t bytes) {
  check(XMOE_GPU_NAME(MemsetAsync)(data, byte, bytes, stream(device)), "filling memory");
}

void copy(const Device& from_device, const void* from, const Device& to_device, void* to, std::size_t bytes) {
  if (from_device.is_cpu()) {
    State& s = state(to_device.index);
    s.uploads.queue(from, to, bytes, s.stream);
    return;
  }
  State& s = state(from_device.index);
  const bool lands = to_device.is_cpu() && bytes <= kLandingBytes;
  check(
      XMOE_GPU_NAME(MemcpyAsync)(lands ? s.landing : to, from, bytes, XMOE_GPU_NAME(MemcpyDefault), s.stream),
      "copying memory");
  if (from_device != to_device) gpu::synchronize(from_device);
  if (lands) std::memcpy(to, s.landing, bytes);
}

void synchronize(const Device& device) {
  State& s = state(device.index);
  check(XMOE_GPU_NAME(StreamSynchronize)(s.stream), "waiting for the GPU");
  throw_fault(s);
}

}  // namespace xmoe::gpu
