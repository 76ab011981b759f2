// Runs the benchmarks, all or those whose names contain one of the given words.
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <algorithm>

#include "base/log.h"
#include "base/parallel.h"
#include "bench/support/bench.h"

namespace {

bool chosen(const std::string& name, const std::vector<std::string>& filters) {
  return filters.empty() || std::any_of(filters.begin(), filters.end(), [&](const std::string& f) {
           return name.find(f) != std::string::npos;
         });
}

xmoe::Device device_called(const std::string& name, bool list) {
  if (name == "cpu" || list) return {};
  const xmoe::Device gpu{xmoe::Device::Kind::gpu, 0};
  if (const std::string reason = xmoe::why_unusable(gpu); !reason.empty()) xmoe::fail("{}", reason);
  return gpu;
}

void run(const std::vector<std::string>& filters, const std::string& shape, const std::string& device,
         const std::string& json, bool list) {
  auto all = xmoe::benchmarks();
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  xmoe::Bench bench(device_called(device, list), shape);
  bool any = false;
  for (const auto& benchmark : all) {
    if (!chosen(benchmark.name, filters)) continue;
    any = true;
    if (list)
      fmt::print("{}\n", benchmark.name);
    else
      benchmark.run(bench);
  }
  if (!any)
    xmoe::fail("no benchmark is called like {}; --list shows their names", fmt::join(filters, " or "));
  if (!list && !shape.empty() && !bench.met_shape())
    xmoe::fail(
        "no shape of moe_layer or grouped_mlp that ran is called like '{}'; without --shape all are shown",
        shape);
  if (!json.empty() && !list) xmoe::write_json(bench.rows(), json);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Benchmarks of xmoe: figures, the bounds measured beside them, and the share reached.");
  std::vector<std::string> filters;
  std::string shape;
  std::string json;
  std::string device = "cpu";
  bool list = false;
  bool bursts = false;
  app.add_option("name", filters, "Run those whose names contain one of these words (default: all)");
  app.add_option("--shape", shape, "Of moe_layer and grouped_mlp, only shapes whose name contains this");
  app.add_option("--json", json, "Write the rows to this file as a list of objects");
  app.add_option("--device", device, "Run them on cpu (the default) or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_flag(
      "--bursts", bursts,
      "On a GPU, pause before each 20 ms of work, so that it is measured cool and at its full clock");
  app.add_flag("--list", list, "Print the names and run nothing");
  CLI11_PARSE(app, argc, argv);
  try {
    if (bursts) xmoe::Bench::measure_bursts();
    run(filters, shape, device, json, list);
  } catch (const std::exception& error) {
    xmoe::log::write_error(error.what());
    return 1;
  }
  return 0;
}
