#include "base/error.h"
#include "device/gpu.h"

namespace xmoe::gpu {

void launch_checked(const void* kernel, Grid grid, Block block, void** arguments, std::size_t shared_bytes,
                    Stream stream) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  // Shared memory that need not be asked for is 48 KiB together with what the kernel declares itself.
  constexpr std::size_t kGranted = 32 << 10;
  if (shared_bytes > kGranted)
    check(XMOE_GPU_NAME(FuncSetAttribute)(kernel, XMOE_GPU_NAME(FuncAttributeMaxDynamicSharedMemorySize),
                                          static_cast<int>(shared_bytes)),
          "asking for shared memory");
  const Status status = XMOE_GPU_NAME(LaunchKernel)(kernel, grid, block, arguments, shared_bytes, stream);
  if (status == XMOE_GPU_NAME(Success)) return;
  check(status,
        fmt::format("launching a kernel on a grid of {} x {} x {} blocks of {} x {} x {} threads with {} "
                    "bytes of shared memory",
                    grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes)
            .c_str());
}

}  // namespace xmoe::gpu
