// Stacks of their own on one thread of the system, between which it switches at no more cost than a call.
#pragma once

#include <cstddef>
#include <memory>

namespace xmoe::gpu::emulated {

// A stack that a function runs on, or, made without one, the stack that the thread has already.
class Fiber {
 public:
  Fiber() = default;
  // Calls run() when it is first switched to. It must never return. Stacks of different `number` begin at
  // different places of a page, so that they do not fight for the same lines of the cache.
  Fiber(void (*run)(), std::size_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // From this, which runs, to another.
  void switch_to(Fiber& other);
  // First thing that run() does.
  static void begin();

 private:
  void* stack_pointer_ = nullptr;  // where it was left
  void* mapping_ = nullptr;
  // What AddressSanitizer wants to know.
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
  void* shadow_ = nullptr;
};

}  // namespace xmoe::gpu::emulated
