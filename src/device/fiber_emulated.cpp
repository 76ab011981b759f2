#include "device/fiber_emulated.h"

#include <sys/mman.h>

#include <cstdint>

#include "base/error.h"

#if defined(XMOE_ADDRESS_SANITIZED)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "The emulated GPU switches stacks on x86-64 only"
#endif

// Leaves what a called function must preserve on the stack that is left, and takes it from the other.
// rdi: where the left stack's pointer goes; rsi: the other's.
asm(R"(
.text
.type xmoe_switch_stack, @function
xmoe_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size xmoe_switch_stack, .-xmoe_switch_stack
)");
extern "C" void xmoe_switch_stack(void** left, void* other);

namespace xmoe::gpu::emulated {

namespace {

constexpr std::size_t kPage = 4096;
// Kernels need some KB; the rest is for the sanitizer, which reports an error on the stack where it happened.
constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr int kSavedRegisters = 6;

thread_local Fiber* left = nullptr;     // by the latest switch
thread_local Fiber* reached = nullptr;  // by it

}  // namespace

Fiber::Fiber(void (*run)(), std::size_t number) {
  mapping_ = ::mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) fail("no memory for the stack of a thread of the emulated GPU");
  ::mprotect(mapping_, kPage, PROT_NONE);  // what grows beyond the stack ends here
  bottom_ = static_cast<std::byte*>(mapping_) + kPage;
  size_ = kStackBytes;
  // As if run() had been left right before its first instruction, called from nowhere.
  constexpr std::size_t kStep = 320;  // some lines of the cache
  auto* top = reinterpret_cast<std::uintptr_t*>(static_cast<std::byte*>(mapping_) + kPage + kStackBytes -
                                                number * kStep % kPage);
  *--top = 0;
  *--top = reinterpret_cast<std::uintptr_t>(run);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  stack_pointer_ = top;
}

Fiber::~Fiber() {
  if (mapping_ != nullptr) ::munmap(mapping_, kPage + kStackBytes);
}

void Fiber::switch_to(Fiber& other) {
  left = this;
  reached = &other;
#if defined(XMOE_ADDRESS_SANITIZED)
  __sanitizer_start_switch_fiber(&shadow_, other.bottom_, other.size_);
#endif
  xmoe_switch_stack(&stack_pointer_, other.stack_pointer_);
  begin();
}

void Fiber::begin() {
#if defined(XMOE_ADDRESS_SANITIZED)
  // Of a thread's own stack the sanitizer alone knows the bounds.
  __sanitizer_finish_switch_fiber(reached->shadow_, &left->bottom_, &left->size_);
#endif
}

}  // namespace xmoe::gpu::emulated
