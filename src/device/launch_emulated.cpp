// Runs kernels block by block. The threads of a block take turns on one thread of the system, each on a stack
// of its own: one runs until it waits for others, then one that can go on, drawn by lot. Whoever finds the
// last of those that it waits for arrived lets all go on. A thread that ends without having waited leaves its
// stack to the next, so that kernels without barriers switch no stacks.
#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/fiber_emulated.h"
#include "device/fill_emulated.h"
#include "device/gpu.h"

#if defined(XMOE_ADDRESS_SANITIZED)
#include <sanitizer/common_interface_defs.h>
#endif

// Where the linker puts __shared__ memory; none where the program has no such kernel.
extern "C" {
[[gnu::weak]] extern std::byte __start_xmoe_shared[];  // NOLINT: the linker's name
[[gnu::weak]] extern std::byte __stop_xmoe_shared[];   // NOLINT
}

namespace xmoe::gpu::emulated {

namespace {

// What every supported GPU grants.
constexpr std::uint64_t kMostThreads = 1024;  // of a block
constexpr unsigned kMostBlocks = 65535;       // along y and z
constexpr std::size_t kMostShared = std::size_t{163} << 10;

enum class Wait : std::uint8_t { none, block_barrier, warp_barrier, shuffle, ballot, ended };

struct Thread {
  dim3 index;
  Fiber* fiber = nullptr;  // that it is on; none before it begins
  Wait wait = Wait::none;
  int lane_mask = 0;
  std::uint64_t value = 0;  // what it brings to a shuffle or a ballot, and then takes from there
  std::source_location where;
};

std::string to_string(const Thread& thread) {
  const std::string who = fmt::format("thread ({}, {}, {})", thread.index.x, thread.index.y, thread.index.z);
  switch (thread.wait) {
    case Wait::none:
      return who + " can go on";
    case Wait::block_barrier:
      return fmt::format("{} waits at the block's barrier of {}:{}", who, thread.where.file_name(),
                         thread.where.line());
    case Wait::warp_barrier:
      return who + " waits at a barrier of its warp";
    case Wait::shuffle:
      return fmt::format("{} waits in a shuffle by {}", who, thread.lane_mask);
    case Wait::ballot:
      return who + " waits in a ballot";
    case Wait::ended:
      return who + " has ended";
  }
  return who;
}

std::string name_of(const void* kernel) {
#if defined(XMOE_ADDRESS_SANITIZED)
  char name[1024] = {};
  // It takes addresses to return to, and names what lies before them.
  __sanitizer_symbolize_pc(static_cast<std::byte*>(const_cast<void*>(kernel)) + 1, "%f", name, sizeof name);
  return name;
#else
  Dl_info found{};
  if (::dladdr(kernel, &found) == 0) return fmt::format("{}", kernel);
  return fmt::format("that `addr2line -Cfe {} {:#x}` names", found.dli_fname,
                     static_cast<const std::byte*>(kernel) - static_cast<const std::byte*>(found.dli_fbase));
#endif
}

// Numbers that differ from launch to launch and are the same in every run of the program.
class Lot {
 public:
  // `count` below 2^32.
  std::size_t below(std::size_t count) {
    constexpr int kShiftA = 13;
    constexpr int kShiftB = 7;
    constexpr int kShiftC = 17;
    state_ ^= state_ << kShiftA;
    state_ ^= state_ >> kShiftB;
    state_ ^= state_ << kShiftC;
    constexpr int kHalf = 32;
    return (state_ >> kHalf) * count >> kHalf;
  }

 private:
  std::uint64_t state_ = 0x9e3779b97f4a7c15U;
};

// Of a thread of the system.
class Machine {
 public:
  void run(const void* kernel, std::size_t shared_bytes, const std::function<void()>& call) {
    call_ = &call;
    kernel_ = kernel;
    const std::unique_ptr<void, decltype(&std::free)> shared(std::malloc(shared_bytes), &std::free);
    shared_ = shared.get();
    fill_unwritten(shared_, shared_bytes);
    fill_unwritten(__start_xmoe_shared, static_cast<std::size_t>(__stop_xmoe_shared - __start_xmoe_shared));
    const std::uint64_t blocks = std::uint64_t{gridDim.x} * gridDim.y * gridDim.z;
    const std::uint64_t first = lot_.below(std::min<std::uint64_t>(blocks, std::uint32_t{0xffffffff}));
    const std::uint64_t step = lot_.below(2) == 0 ? 1 : blocks - 1;
    std::uint64_t block = first;
    do {
      blockIdx = {static_cast<unsigned>(block % gridDim.x),
                  static_cast<unsigned>(block / gridDim.x % gridDim.y),
                  static_cast<unsigned>(block / gridDim.x / gridDim.y)};
      run_block();
      block = (block + step) % blocks;
    } while (block != first);
  }

  void* shared() const { return shared_; }

  void wait_in_block(const std::source_location& where) {
    Thread& mine = threads_[running_];
    mine.wait = Wait::block_barrier;
    mine.where = where;
    if (++at_barrier_ == threads_.size()) release_block();
    go_on(*mine.fiber);
  }

  std::uint64_t wait_in_warp(Wait wait, std::uint64_t value, int lane_mask) {
    Thread& mine = threads_[running_];
    mine.wait = wait;
    mine.value = value;
    mine.lane_mask = lane_mask;
    const std::size_t warp = running_ / kWarpSize;
    if (++in_warp_[warp] == lanes_of(warp)) release_warp(warp);
    go_on(*mine.fiber);
    return mine.value;
  }

 private:
  std::size_t lanes_of(std::size_t warp) const {
    return std::min<std::size_t>(kWarpSize, threads_.size() - warp * kWarpSize);
  }

  void run_block() {
    threads_.assign(std::size_t{blockDim.x} * blockDim.y * blockDim.z, {});
    runnable_.clear();
    for (std::size_t i = 0; i < threads_.size(); ++i) {
      const auto n = static_cast<unsigned>(i);
      threads_[i].index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    }
    in_warp_.assign((threads_.size() + kWarpSize - 1) / kWarpSize, 0);
    at_barrier_ = 0;
    release_all();
    go_on(host_);
    for (const Thread& thread : threads_)
      if (thread.wait != Wait::ended) fail_block();
  }

  // Nobody can go on, and some have not ended.
  [[noreturn]] void fail_block() {
    const Thread& one = threads_.front();
    const Thread* other = &one;
    for (const Thread& t : threads_)
      if (t.wait != one.wait || t.lane_mask != one.lane_mask || t.where.line() != one.where.line())
        other = &t;
    for (auto& fiber : fibers_) abandoned_.push_back(std::move(fiber));
    fibers_.clear();
    idle_.clear();
    throw InvariantError(
        fmt::format("the threads of block ({}, {}, {}) of kernel {} do not wait together: {}, {}", blockIdx.x,
                    blockIdx.y, blockIdx.z, name_of(kernel_), to_string(one), to_string(*other)));
  }

  void release(std::size_t i) {
    threads_[i].wait = Wait::none;
    runnable_.push_back(i);
  }

  void release_block() {
    const std::source_location& where = threads_.front().where;
    for (const Thread& t : threads_)
      if (t.where.line() != where.line() || t.where.column() != where.column()) return;
    at_barrier_ = 0;
    release_all();
  }

  // Warp by warp, from one that is drawn by lot.
  void release_all() {
    const std::size_t first = lot_.below(in_warp_.size()) * kWarpSize;
    for (std::size_t i = 0; i < threads_.size(); ++i)
      release(i + first < threads_.size() ? i + first : i + first - threads_.size());
  }

  void release_warp(std::size_t warp) {
    Thread* lanes = &threads_[warp * kWarpSize];
    const std::size_t count = lanes_of(warp);
    std::uint64_t bits = 0;
    std::uint64_t values[kWarpSize];
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t from = i ^ static_cast<std::size_t>(lanes->lane_mask);
      if (lanes[i].wait != lanes->wait || lanes[i].lane_mask != lanes->lane_mask || from >= count) return;
      values[i] = lanes[from].value;
      bits |= lanes[i].value << i;
    }
    const bool votes = lanes->wait == Wait::ballot;
    in_warp_[warp] = 0;
    for (std::size_t i = 0; i < count; ++i) {
      lanes[i].value = votes ? bits : values[i];
      release(warp * kWarpSize + i);
    }
  }

  // The thread that runs next: by lot of those that could go on last. These are mostly of one warp, so that
  // one runs ahead of the others, and its stacks are still in the cache.
  Thread& draw() {
    const std::size_t among = std::min<std::size_t>(kWarpSize, runnable_.size());
    std::swap(runnable_[runnable_.size() - 1 - lot_.below(among)], runnable_.back());
    running_ = runnable_.back();
    runnable_.pop_back();
    Thread& thread = threads_[running_];
    threadIdx = thread.index;
    return thread;
  }

  // Leaves a stack for that of a thread that can go on, or of the host where there is none; returns when it
  // is this stack's turn again.
  void go_on(Fiber& mine) {
    Fiber* next = &host_;
    if (!runnable_.empty()) {
      Thread& thread = draw();
      if (thread.fiber == nullptr) thread.fiber = idle_fiber();
      next = thread.fiber;
    }
    if (next != &mine) mine.switch_to(*next);
  }

  Fiber* idle_fiber() {
    if (idle_.empty())
      return fibers_.emplace_back(std::make_unique<Fiber>(&Machine::run_threads, fibers_.size())).get();
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  // What every stack does: one thread after the other.
  static void run_threads();
  void run_thread() {
    (*call_)();
    Thread& done = threads_[running_];
    done.wait = Wait::ended;
    Fiber& mine = *done.fiber;
    idle_.push_back(&mine);
    go_on(mine);
  }

  Lot lot_;
  const std::function<void()>* call_ = nullptr;
  const void* kernel_ = nullptr;
  void* shared_ = nullptr;
  std::vector<Thread> threads_;  // of the block
  std::size_t running_ = 0;
  std::vector<std::size_t> runnable_;
  std::vector<std::size_t> in_warp_;  // threads that wait in each
  std::size_t at_barrier_ = 0;
  Fiber host_;  // the stack that launched
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::vector<std::unique_ptr<Fiber>> abandoned_;  // whose threads wait for ever
};

Machine& machine() {
  static thread_local Machine m;
  return m;
}

void Machine::run_threads() {
  Fiber::begin();
  for (;;) machine().run_thread();
}

}  // namespace

void block_barrier(const std::source_location& where) { machine().wait_in_block(where); }

void warp_barrier() { machine().wait_in_warp(Wait::warp_barrier, 0, 0); }

std::uint64_t shuffle_xor(std::uint64_t value, int lane_mask) {
  return machine().wait_in_warp(Wait::shuffle, value, lane_mask);
}

unsigned long long ballot(bool predicate) {
  return machine().wait_in_warp(Wait::ballot, predicate ? 1 : 0, 0);
}

void* dynamic_shared() { return machine().shared(); }

void launch(const void* kernel, const dim3& grid, const dim3& block, std::size_t shared_bytes,
            const std::function<void()>& call) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  XMOE_CHECK(
      0 < threads && threads <= kMostThreads && grid.y <= kMostBlocks && grid.z <= kMostBlocks &&
          shared_bytes <= kMostShared,
      "kernel {}: a grid of {} x {} x {} blocks of {} x {} x {} threads with {} bytes of shared memory "
      "is more than every GPU can launch",
      name_of(kernel), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
  // Kernels run one at a time: threadIdx and shared memory are the program's.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  gridDim = grid;
  blockDim = block;
  machine().run(kernel, shared_bytes, call);
}

}  // namespace xmoe::gpu::emulated
