// Benchmarks: each prints rows with the figure, the bound measured in the same run, and the share of it
// reached. Those of ops run on the device of their Bench.
//
//   XMOE_BENCHMARK(norm) { bench.op(norm_case(...)); }
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/context.h"
#include "support/op_case.h"

namespace xmoe {

struct BenchRow {
  std::string name;
  std::string shape;
  std::string dtype;
  double value = 0.0;
  std::string unit;
  double bound = 0.0;  // in the same unit; 0 when there is none
  double ratio() const { return bound > 0.0 ? value / bound : 0.0; }
};

class Bench {
 public:
  // Of moe_layer and grouped_mlp, the shapes whose name contains `shape` are wanted.
  explicit Bench(const Device& device = {}, std::string shape = {})
      : device_(device), shape_(std::move(shape)) {}

  const Device& device() const { return device_; }
  bool wants(const std::string& shape) {
    const bool wanted = shape.find(shape_) != std::string::npos;
    met_shape_ = met_shape_ || wanted;
    return wanted;
  }
  bool met_shape() const { return met_shape_; }  // whether any was wanted
  // Tokens of a benchmark: enough for all threads, and on a GPU more rows than its caches hold.
  std::int64_t tokens() const { return device_.is_cpu() ? 4096 : 32768; }

  // From now on every measurement on a GPU is of bursts: a pause before each 20 ms of work, so that the GPU
  // meets them cool and its power limit does not lower its clock. Without, work follows work as in training.
  static void measure_bursts() { bursts_ = true; }

  // Median seconds of a call, the work that it queues on the device included: after warm-up, repeated for
  // about kTimedSeconds.
  static double seconds(const std::function<void()>& call, const Device& device = {});

  void add(const BenchRow& row);  // prints it and keeps it for the JSON file

  // `bytes` is what must move between memory and the cores; the bound is a copy that moves as many.
  void memory_bound(const std::string& name, const std::string& shape, DType dtype, double bytes,
                    const std::function<void()>& call);
  void compute_bound(const std::string& name, const std::string& shape, DType dtype, double flops,
                     double bound_gflops, const std::function<void()>& call);

  // Forward and backward of a memory-bound op, in f32 and bf16. The shape shown is that of the first input.
  void op(const OpCase& op);

  // GB/s (reads and writes counted) of a copy that moves `bytes` in all, by all threads or within the GPU;
  // measured once per size.
  double copy_bandwidth(double bytes);

  const std::vector<BenchRow>& rows() const { return rows_; }

 private:
  double copy_seconds(std::int64_t size) const;

  static inline bool bursts_ = false;
  Device device_;
  std::string shape_;
  bool met_shape_ = false;
  std::vector<BenchRow> rows_;
  std::map<std::int64_t, double> copies_;
};

struct Benchmark {
  std::string name;
  void (*run)(Bench& bench);
};

// All that are registered, by name.
std::vector<Benchmark>& benchmarks();

struct BenchmarkRegistration {
  BenchmarkRegistration(const char* name, void (*run)(Bench&)) { benchmarks().push_back({name, run}); }
};

void write_json(const std::vector<BenchRow>& rows, const std::string& path);
void append_json(const std::vector<BenchRow>& rows,
                 const std::string& path);  // to the list that the file holds, if there is one

}  // namespace xmoe

#define XMOE_BENCHMARK(name)                                                                          \
  static void xmoe_benchmark_##name(::xmoe::Bench& bench);                                            \
  static const ::xmoe::BenchmarkRegistration xmoe_registration_##name(#name, &xmoe_benchmark_##name); \
  static void xmoe_benchmark_##name([[maybe_unused]] ::xmoe::Bench& bench)
