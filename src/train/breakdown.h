// Where the time of a step goes, over layers and ranks, and what was sent: --wall-clock-breakdown.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/profile.h"
#include "comm/mesh.h"

namespace xmoe {

// Milliseconds of a step on the ranks: their mean and the most of any.
struct Spent {
  double mean = 0.0;
  double most = 0.0;
};

struct Breakdown {
  // Row 0: work of no layer; row 1 + l: layer l.
  std::vector<std::array<Spent, profile::kActivities>> rows;
  std::array<Spent, profile::kActivities> total{};  // of all rows

  // Bytes that all ranks sent in a step through the groups of one kind, and messages' rounds per rank.
  struct Link {
    std::string group;
    double calls = 0.0;
    double bytes_within_nodes = 0.0;
    double bytes_between_nodes = 0.0;
  };
  std::vector<Link> links;
};

// Collects over steps; what happens between them (validation, checkpoints, reports) is left out.
// profile::enable(true) is the caller's.
class BreakdownCollector {
 public:
  BreakdownCollector(const Mesh& mesh, std::int64_t layers);

  void begin_step();
  void end_step();
  Breakdown collect();  // collective; of the steps since the last collect(), at least one

 private:
  using Row = std::array<double, profile::kActivities>;

  const Mesh& mesh_;
  std::vector<Row> seconds_;  // [1 + layers], as rows of a Breakdown
  std::vector<Traffic> before_;
  std::vector<Traffic> sent_;  // by group
  std::int64_t steps_ = 0;
};

// For people: activities that took time as columns; a row per layer, or their least, mean and most where
// there are many. Ends with a line of the bytes of each kind of group.
std::string breakdown_table(const Breakdown& breakdown);
// The members "timers" (ms) and "traffic" (bytes) of a line of the metrics file, as a JSON object.
std::string breakdown_json(const Breakdown& breakdown);

}  // namespace xmoe
