// Tells how busy the GPU of a program was and which kernels took the time, on standard error when it ends.
// CUDA loads it into any program that is started with
//
//   CUDA_INJECTION64_PATH=build-cuda/libxmoe_gpu_timeline.so build-cuda/xmoe train ...
//
// Counted is the latter half of the time from the first kernel to the last, when a training is past its
// warm-up; XMOE_TIMELINE_SECONDS=s counts the last s seconds instead. XMOE_TIMELINE_LAST=n lists the last n
// kernels and copies in their order too. Recording costs the host about a microsecond a launch.
#include <cupti.h>
#include <cxxabi.h>
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>

#include "support/timeline.h"

namespace {

constexpr std::size_t kBufferBytes = std::size_t{8} << 20;
constexpr std::size_t kBufferAlignment = 8;
constexpr std::size_t kEntriesShown = 40;
constexpr std::size_t kNameShown = 110;

std::mutex mutex;
std::vector<xmoe::Activity> activities;
std::size_t dropped = 0;  // records, for want of memory

// Says what failed, and leaves the program alone.
bool succeeded(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return true;
  const char* text = nullptr;
  cuptiGetResultString(result, &text);
  fmt::print(stderr, "gpu timeline: {} failed: {}\n", what, text == nullptr ? "unknown error" : text);
  return false;
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
  *size = *buffer == nullptr ? 0 : kBufferBytes;
  *most_records = 0;  // as many as fit
}

void keep(const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      activities.push_back({k->start, k->end, k->name});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto* c = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      const char* way = c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "copy to the GPU"
                        : c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "copy to the host"
                                                                         : "copy within the GPU";
      activities.push_back({c->start, c->end, way});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const auto* s = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      activities.push_back({s->start, s->end, "fill"});
      break;
    }
    default:
      break;
  }
}

void CUPTIAPI take_buffer(CUcontext context, std::uint32_t stream, std::uint8_t* buffer, std::size_t,
                          std::size_t valid) {
  const std::lock_guard lock(mutex);
  std::size_t lost = 0;
  if (cuptiActivityGetNumDroppedRecords(context, stream, &lost) == CUPTI_SUCCESS) dropped += lost;
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) keep(record);
  std::free(buffer);
}

// Without the arguments of functions, which say nothing about a kernel that its template's do not.
std::string readable(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), &std::free);
  std::string name = status == 0 ? text.get() : mangled;
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  return name.size() <= kNameShown ? name : name.substr(0, kNameShown - 3) + "...";
}

// When each of the last began, for how long nothing ran before it, and how long it took.
void list_last(std::vector<xmoe::Activity> all, std::size_t count) {
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  const std::size_t from = all.size() - std::min(count, all.size());
  std::uint64_t done = all.front().begin;
  fmt::print(stderr, "   begin us    gap us       us  what\n");
  for (std::size_t i = 0; i < all.size(); ++i) {
    const xmoe::Activity& a = all[i];
    const std::uint64_t gap = a.begin > done ? a.begin - done : 0;
    done = std::max(done, a.end);
    if (i < from) continue;
    fmt::print(stderr, "{:11.1f} {:9.1f} {:8.1f}  {}\n",
               static_cast<double>(a.begin - all[from].begin) * 1e-3, static_cast<double>(gap) * 1e-3,
               static_cast<double>(a.end - a.begin) * 1e-3, readable(a.name));
  }
}

void report() {
  if (!succeeded(cuptiActivityFlushAll(1), "collecting what was recorded")) return;
  const std::lock_guard lock(mutex);
  if (activities.empty()) {
    fmt::print(stderr, "gpu timeline: nothing ran on a GPU\n");
    return;
  }
  std::uint64_t first = activities.front().begin;
  std::uint64_t last = 0;
  for (const auto& a : activities) {
    first = std::min(first, a.begin);
    last = std::max(last, a.end);
  }
  std::uint64_t from = first + (last - first) / 2;
  if (const char* seconds = std::getenv("XMOE_TIMELINE_SECONDS")) {
    const double wanted = std::atof(seconds) * 1e9;
    if (wanted > 0.0) from = last - std::min(last - first, static_cast<std::uint64_t>(wanted));
  }
  if (const char* count = std::getenv("XMOE_TIMELINE_LAST"))
    list_last(activities, static_cast<std::size_t>(std::max(0, std::atoi(count))));
  const xmoe::Timeline t = xmoe::summarise(std::move(activities), from, last);
  constexpr double kMs = 1e-6;
  fmt::print(stderr,
             "gpu timeline: {:.1f} ms, idle {:.2f} % in {} gaps, the longest {:.3f} ms\n"
             "  share   total ms    calls  mean us  what\n",
             static_cast<double>(t.span) * kMs, 100.0 * t.idle_share(), t.gaps,
             static_cast<double>(t.longest_gap) * kMs);
  if (dropped > 0) fmt::print(stderr, "  {} records are missing: busy time is too low\n", dropped);
  for (std::size_t i = 0; i < std::min(kEntriesShown, t.entries.size()); ++i) {
    const xmoe::TimelineEntry& e = t.entries[i];
    const auto total = static_cast<double>(e.total);
    fmt::print(stderr, "{:6.2f} % {:9.2f} {:8} {:8.1f}  {}\n", 100.0 * total / static_cast<double>(t.span),
               total * kMs, e.calls, total * 1e-3 / static_cast<double>(e.calls), readable(e.name));
  }
}

}  // namespace

// The name that CUDA calls.
extern "C" int InitializeInjection() {  // NOLINT(readability-identifier-naming)
  if (!succeeded(cuptiActivityRegisterCallbacks(&give_buffer, &take_buffer), "asking for records")) return 0;
  for (const auto kind :
       {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET})
    if (!succeeded(cuptiActivityEnable(kind), "recording (does another profiler run?)")) return 0;
  std::atexit(&report);
  return 1;
}
