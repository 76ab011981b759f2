// What the benchmark of dispatchers is asked for; the flags are in dispatch_bench.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "bench/support/bench.h"
#include "comm/mesh.h"

namespace xmoe::dispatch_bench {

struct Options {
  std::int64_t tokens = 2048;  // of a rank
  std::int64_t hidden = 512;
  std::int64_t ffn = 256;
  std::int64_t experts = 32;
  std::int64_t top_k = 4;
  std::vector<DType> dtypes = {DType::f32, DType::bf16};
  double zipf = 0.0;
  std::int64_t chunks = 1;
  bool dispatch_only = false;
  int ranks_per_node = 0;
  int repeats = 15;
  std::string json;
};

inline constexpr double kCapacityFactor = 1.25;  // of the published settings

// "4 nodes x 2 ranks x T 2048 ..."; with one node only the ranks.
std::string describe(const Options& options, const Mesh& mesh);

// An MoE layer, forward and backward.
void bench_layers(Bench& bench, const Options& options, const Mesh& mesh);
// Rows out and back without experts between.
void bench_exchanges(Bench& bench, const Options& options, const Mesh& mesh);

}  // namespace xmoe::dispatch_bench
