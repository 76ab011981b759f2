#include "bench/support/bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "base/parallel.h"
#include "base/timer.h"

namespace xmoe {

namespace {

constexpr double kTimedSeconds = 0.3;  // long against a time slice of the system, short against a coffee
constexpr std::chrono::milliseconds kPause{100};  // before a burst: an average power of a few hundred watts
constexpr std::int64_t kPage = 4096;
constexpr int kLeastRepeats = 3;  // the fewest that have a median apart from their extremes

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double argument_bytes(const std::vector<Tensor>& tensors) {
  double bytes = 0.0;
  for (const auto& t : tensors) bytes += static_cast<double>(t.bytes());
  return bytes;
}

// What is read and written of the gradients: written once, and read too where they are added to.
double gradient_bytes(const OpCase& op, const OpRun& run) {
  double bytes = 0.0;
  for (std::size_t i = 0; i < run.d_in.size(); ++i)
    bytes += static_cast<double>(run.d_in[i].bytes()) * (op.inputs[i].gradient_added ? 2.0 : 1.0);
  return bytes;
}

}  // namespace

double Bench::seconds(const std::function<void()>& call, const Device& device) {
  call();  // memory is touched, scratch grows to its size, code is compiled
  synchronize(device);
  // Calls of a few microseconds are timed in batches, so that reading the clock does not count; nor, on a
  // GPU, waiting for the end of the last, some 10 microseconds.
  const bool bursts = bursts_ && !device.is_cpu();
  const double least_batch = device.is_cpu() ? 1e-4 : bursts ? 2e-2 : 1e-2;
  Timer timer;
  call();
  synchronize(device);
  const double once = std::max(timer.seconds(), 1e-9);
  const auto batch = static_cast<int>(std::max(1.0, least_batch / once));
  std::vector<double> times;
  const Timer total;
  while (static_cast<int>(times.size()) < kLeastRepeats || total.seconds() < kTimedSeconds) {
    if (bursts) std::this_thread::sleep_for(kPause);
    timer.restart();
    for (int i = 0; i < batch; ++i) call();
    synchronize(device);
    times.push_back(timer.seconds() / batch);
  }
  return median(std::move(times));
}

void Bench::add(const BenchRow& row) {
  if (rows_.empty())
    fmt::print("{:<34} {:<24} {:<5} {:>10} {:<8} {:>10} {:>6}\n", "name", "shape", "dtype", "value", "unit",
               "bound", "ratio");
  rows_.push_back(row);
  const std::string bound = row.bound > 0.0 ? fmt::format("{:.4g}", row.bound) : "-";
  const std::string ratio = row.bound > 0.0 ? fmt::format("{:.2f}", row.ratio()) : "-";
  fmt::print("{:<34} {:<24} {:<5} {:>10.4g} {:<8} {:>10} {:>6}\n", row.name, row.shape, row.dtype, row.value,
             row.unit, bound, ratio);
  std::fflush(stdout);
}

void Bench::memory_bound(const std::string& name, const std::string& shape, DType dtype, double bytes,
                         const std::function<void()>& call) {
  const double gigabytes = bytes / seconds(call, device_) * 1e-9;
  add({name, shape, std::string(name_of(dtype)), gigabytes, "GB/s", copy_bandwidth(bytes)});
}

void Bench::compute_bound(const std::string& name, const std::string& shape, DType dtype, double flops,
                          double bound_gflops, const std::function<void()>& call) {
  const double gflops = flops / seconds(call, device_) * 1e-9;
  if (device_.is_cpu())
    add({name, shape, std::string(name_of(dtype)), gflops, "GFLOP/s", bound_gflops});
  else
    add({name, shape, std::string(name_of(dtype)), gflops * 1e-3, "TFLOP/s", bound_gflops * 1e-3});
}

void Bench::op(const OpCase& op) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    OpRun run(op, compute, device_);
    const std::string shape = to_string(run.in.front().shape());
    const double forward =
        op.forward_bytes ? op.forward_bytes(compute) : argument_bytes(run.in) + argument_bytes(run.out);
    memory_bound(op.name + ".forward", shape, compute, forward, [&] { run.forward_again(); });
    if (!op.backward) continue;
    const double backward =
        op.backward_bytes ? op.backward_bytes(compute)
                          : argument_bytes(run.in) + argument_bytes(run.d_out) + gradient_bytes(op, run);
    run.backward();
    memory_bound(op.name + ".backward", shape, compute, backward, [&] { run.backward_again(); });
  }
}

double Bench::copy_seconds(std::int64_t size) const {
  Arena arena(device_, MemoryTag::workspace);
  const Tensor from = arena.zeros(DType::u8, {size});
  const Tensor to = arena.zeros(DType::u8, {size});
  if (!device_.is_cpu())
    return seconds([&] { device_copy(device_, from.raw(), device_, to.raw(), to.bytes()); }, device_);
  return seconds([&] {
    parallel_for(size / kPage, 1, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(to.data<std::uint8_t>() + begin * kPage, from.data<std::uint8_t>() + begin * kPage,
                  static_cast<std::size_t>((end - begin) * kPage));
    });
  });
}

double Bench::copy_bandwidth(double bytes) {
  const std::int64_t pages = std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes) / 2 / kPage);
  const auto known = copies_.find(pages);
  if (known != copies_.end()) return known->second;
  const std::int64_t size = pages * kPage;
  return copies_[pages] = 2.0 * static_cast<double>(size) / copy_seconds(size) * 1e-9;
}

std::vector<Benchmark>& benchmarks() {
  static std::vector<Benchmark> all;
  return all;
}

namespace {

void extend_json(nlohmann::json list, const std::vector<BenchRow>& rows, const std::string& path) {
  for (const auto& row : rows) {
    const auto same = std::find_if(list.begin(), list.end(), [&](const auto& old) {
      return old.at("name") == row.name && old.at("shape") == row.shape && old.at("dtype") == row.dtype;
    });
    if (same != list.end()) list.erase(same);
    list.push_back({{"name", row.name},
                    {"shape", row.shape},
                    {"dtype", row.dtype},
                    {"value", row.value},
                    {"unit", row.unit},
                    {"bound", row.bound},
                    {"ratio", row.ratio()}});
  }
  write_file_atomically(path, list.dump(1) + "\n");
}

}  // namespace

void write_json(const std::vector<BenchRow>& rows, const std::string& path) {
  extend_json(nlohmann::json::array(), rows, path);
}

void append_json(const std::vector<BenchRow>& rows, const std::string& path) {
  auto list = nlohmann::json::array();
  if (std::filesystem::exists(path)) list = nlohmann::json::parse(read_text_file(path));
  extend_json(std::move(list), rows, path);
}

}  // namespace xmoe
