// In the place of gemm_cpu.cpp in a build for GPUs on a machine without oneDNN.
#include "ops/gemm/gemm_cpu.h"
#include "ops/gemm/gemm_tile.h"

namespace xmoe {

namespace {

[[noreturn]] void refuse() {
  fail(
      "this binary was built without oneDNN, which matrix products on the CPU need: install it (Debian: "
      "libdnnl-dev) and build again, or run on a GPU");
}

}  // namespace

void gemm_tile(const GemmTile&) { refuse(); }
void gemm_tile_widened(const GemmTile&) { refuse(); }
void gemm_tiles(const GemmTile&, std::int64_t, std::int64_t) { refuse(); }
bool cpu_has_bf16_gemm() { return false; }

namespace cpu {
void gemm(const Tensor&, const Tensor&, const Tensor&, const GemmOptions&) { refuse(); }
}  // namespace cpu

}  // namespace xmoe
