// One matrix product on the calling CPU thread: the piece from which CPU ops that own their threads (grouped
// GEMM, attention, the fused loss) are built. Row-major with leading dimensions; the same contract as gemm.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/dtype.h"
#include "ops/gemm/gemm.h"

namespace xmoe {

struct GemmTile {
  std::int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  std::int64_t lda = 0;
  const void* b = nullptr;
  std::int64_t ldb = 0;
  void* c = nullptr;
  std::int64_t ldc = 0;
  DType input = DType::f32;   // of A and B
  DType output = DType::f32;  // of C: `input` or f32
  GemmOptions options;
};

void gemm_tile(const GemmTile& tile);

// The library's kernels take C in groups of rows and columns (6 x 16 with AVX2, 8 x 48 with AVX-512) and sum
// what is left over of a group in another order. A product that is cut at multiples of kGroup has the same
// bits wherever it is cut.
inline constexpr std::int64_t kGroup = 48;
// The next such place at or behind `at`; the end is one too.
constexpr std::int64_t group_boundary(std::int64_t at, std::int64_t end) {
  return std::min((at + kGroup - 1) / kGroup * kGroup, end);
}

// The whole product on all threads, cut into tiles of at most rows x columns: multiples of kGroup if results
// are not to depend on them.
void gemm_tiles(const GemmTile& whole, std::int64_t rows, std::int64_t columns);

// Whether this CPU multiplies bf16 natively through the library; without it bf16 operands are widened to f32
// first, as those of f16 always are: the library has no products of them.
bool cpu_has_bf16_gemm();

// How gemm_tile multiplies operands of 16 bits on such a CPU; tests call it on any. Not for m, n or k of 0.
void gemm_tile_widened(const GemmTile& tile);

}  // namespace xmoe
