// Whether this binary holds the GPU's half. Ops choose by `if constexpr`: a call in the branch that is not
// taken needs no definition.
//
// For .cpp files alone, which CMake looks through for this include: all others compile alike whether a GPU's
// half is built or not, and a compiler cache has them for both.
#pragma once

#ifndef XMOE_GPU_BUILT
#error "not a .cpp that CMake knows to ask: include device/gpu_built.h in it directly, and configure again"
#endif

namespace xmoe {

inline constexpr bool kGpuBuilt = XMOE_GPU_BUILT != 0;

}  // namespace xmoe
