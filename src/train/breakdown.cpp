#include "train/breakdown.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace xmoe {

namespace {

using SpentRow = std::array<Spent, profile::kActivities>;

std::vector<const Communicator*> groups_of(const Mesh& mesh) {
  return {&mesh.world(), &mesh.tp(), &mesh.dp(), &mesh.ep(), &mesh.edp(), &mesh.ep_node()};
}

std::vector<Traffic> traffic_of(const Mesh& mesh) {
  std::vector<Traffic> traffic;
  for (const Communicator* group : groups_of(mesh)) traffic.push_back(group->traffic());
  return traffic;
}

// `values` of all ranks, one rank behind the other.
std::vector<double> gather(Communicator& world, std::vector<double>& values) {
  std::vector<double> all(values.size() * static_cast<std::size_t>(world.size()));
  const auto bytes = [](std::vector<double>& v) {
    return Tensor(v.data(), DType::u8, {static_cast<std::int64_t>(v.size() * sizeof(double))});
  };
  world.all_gather(bytes(values), bytes(all));
  return all;
}

std::string_view column_name(int activity) { return name_of(static_cast<profile::Activity>(activity)); }

// One line of the table: its title, the figures of the shown columns, their sum.
class Table {
 public:
  explicit Table(const SpentRow& total) {
    for (int a = 0; a < profile::kActivities; ++a)
      if (total[static_cast<std::size_t>(a)].most > 0.0) columns_.push_back(a);
    text_ = fmt::format("  {:<13}", "ms per step");
    for (const int a : columns_) text_ += fmt::format(" {:>{}}", column_name(a), width(a));
    text_ += fmt::format(" {:>9}\n", "sum");
  }

  template <typename F>
  void line(const std::string& title, F&& milliseconds) {
    text_ += fmt::format("  {:<13}", title);
    double sum = 0.0;
    for (const int a : columns_) {
      const double value = milliseconds(static_cast<std::size_t>(a));
      sum += value;
      text_ += fmt::format(" {:>{}.2f}", value, width(a));
    }
    text_ += fmt::format(" {:>9.2f}\n", sum);
  }
  std::string text() const { return text_; }

 private:
  static std::size_t width(int activity) { return std::max<std::size_t>(8, column_name(activity).size()); }

  std::vector<int> columns_;
  std::string text_;
};

void add_layers(const std::vector<SpentRow>& rows, Table& table) {
  constexpr std::size_t kShown = 8;  // more do not fit on a screen beside a running log
  const auto layers = static_cast<std::ptrdiff_t>(rows.size()) - 1;
  if (layers <= static_cast<std::ptrdiff_t>(kShown)) {
    for (std::ptrdiff_t l = 0; l < layers; ++l)
      table.line(fmt::format("layer {}", l),
                 [&](std::size_t a) { return rows[static_cast<std::size_t>(l + 1)][a].mean; });
    return;
  }
  // An activity that a layer lacks (experts in a dense one) is not its least.
  const auto over_layers = [&](std::size_t a, auto&& choose) {
    std::vector<double> values;
    for (auto row = rows.begin() + 1; row != rows.end(); ++row)
      if ((*row)[a].mean > 0.0) values.push_back((*row)[a].mean);
    return values.empty() ? 0.0 : choose(values);
  };
  const auto least = [](const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()); };
  const auto most = [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); };
  const auto mean = [](const std::vector<double>& v) {
    double sum = 0.0;
    for (const double value : v) sum += value;
    return sum / static_cast<double>(v.size());
  };
  table.line("layers, least", [&](std::size_t a) { return over_layers(a, least); });
  table.line("layers, mean", [&](std::size_t a) { return over_layers(a, mean); });
  table.line("layers, most", [&](std::size_t a) { return over_layers(a, most); });
}

nlohmann::ordered_json json_of(const SpentRow& row) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (int a = 0; a < profile::kActivities; ++a) {
    const Spent& spent = row[static_cast<std::size_t>(a)];
    if (spent.most > 0.0) json[std::string(column_name(a))] = {{"mean", spent.mean}, {"max", spent.most}};
  }
  return json;
}

}  // namespace

BreakdownCollector::BreakdownCollector(const Mesh& mesh, std::int64_t layers)
    : mesh_(mesh), seconds_(static_cast<std::size_t>(layers + 1)), sent_(groups_of(mesh).size()) {}

void BreakdownCollector::begin_step() {
  profile::take();
  before_ = traffic_of(mesh_);
}

void BreakdownCollector::end_step() {
  const std::vector<profile::Seconds> rows = profile::take();
  XMOE_CHECK(rows.size() <= seconds_.size(), "time of layer {}: the model has {}", rows.size() - 2,
             seconds_.size() - 1);
  for (std::size_t r = 0; r < rows.size(); ++r)
    for (std::size_t a = 0; a < profile::kActivities; ++a) seconds_[r][a] += rows[r][a];
  const std::vector<Traffic> after = traffic_of(mesh_);
  for (std::size_t g = 0; g < after.size(); ++g) {
    sent_[g].calls += after[g].calls - before_[g].calls;
    sent_[g].bytes_sent += after[g].bytes_sent - before_[g].bytes_sent;
    sent_[g].bytes_between_nodes += after[g].bytes_between_nodes - before_[g].bytes_between_nodes;
  }
  ++steps_;
}

Breakdown BreakdownCollector::collect() {
  XMOE_CHECK(steps_ > 0, "a breakdown of no step");
  const auto steps = static_cast<double>(steps_);
  const std::size_t rows = seconds_.size();
  std::vector<double> mine;
  Row total{};
  for (const Row& row : seconds_)
    for (std::size_t a = 0; a < row.size(); ++a) {
      mine.push_back(1e3 * row[a] / steps);
      total[a] += mine.back();
    }
  // The totals of a rank, so that the most of any is that of one rank and not of different ones.
  mine.insert(mine.end(), total.begin(), total.end());
  for (const Traffic& sent : sent_)
    for (const std::int64_t figure :
         {sent.calls, sent.bytes_sent - sent.bytes_between_nodes, sent.bytes_between_nodes})
      mine.push_back(static_cast<double>(figure) / steps);
  const std::vector<double> all = gather(mesh_.world(), mine);
  const auto ranks = static_cast<std::size_t>(mesh_.world().size());
  const auto value = [&](std::size_t rank, std::size_t i) { return all[rank * mine.size() + i]; };

  Breakdown result;
  result.rows.resize(rows);
  for (std::size_t i = 0; i < (rows + 1) * profile::kActivities; ++i) {
    const std::size_t row = i / profile::kActivities;
    Spent& spent = (row < rows ? result.rows[row] : result.total)[i % profile::kActivities];
    for (std::size_t r = 0; r < ranks; ++r) {
      spent.mean += value(r, i) / static_cast<double>(ranks);
      spent.most = std::max(spent.most, value(r, i));
    }
  }
  const auto groups = groups_of(mesh_);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::size_t at = (rows + 1) * profile::kActivities + 3 * g;
    Breakdown::Link link{.group = groups[g]->name()};
    for (std::size_t r = 0; r < ranks; ++r) {
      link.calls += value(r, at) / static_cast<double>(ranks);
      link.bytes_within_nodes += value(r, at + 1);
      link.bytes_between_nodes += value(r, at + 2);
    }
    result.links.push_back(link);
  }
  seconds_.assign(rows, Row{});
  sent_.assign(sent_.size(), Traffic{});
  steps_ = 0;
  return result;
}

std::string breakdown_table(const Breakdown& b) {
  Table table(b.total);
  add_layers(b.rows, table);
  table.line("no layer", [&](std::size_t a) { return b.rows.front()[a].mean; });
  table.line("total", [&](std::size_t a) { return b.total[a].mean; });
  table.line("most of ranks", [&](std::size_t a) { return b.total[a].most; });
  std::string text = table.text() + "  MB per step, inside nodes + between nodes:";
  constexpr double kMega = 1e6;
  for (const Breakdown::Link& link : b.links)
    if (link.bytes_within_nodes + link.bytes_between_nodes > 0.0)
      text += fmt::format("  {} {:.3f} + {:.3f}", link.group, link.bytes_within_nodes / kMega,
                          link.bytes_between_nodes / kMega);
  return text;
}

std::string breakdown_json(const Breakdown& b) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (auto row = b.rows.begin() + 1; row != b.rows.end(); ++row) layers.push_back(json_of(*row));
  nlohmann::ordered_json traffic = nlohmann::ordered_json::object();
  for (const Breakdown::Link& link : b.links)
    traffic[link.group] = {{"calls", link.calls},
                           {"bytes_within_nodes", link.bytes_within_nodes},
                           {"bytes_between_nodes", link.bytes_between_nodes}};
  const nlohmann::ordered_json json = {
      {"timers", {{"total", json_of(b.total)}, {"no_layer", json_of(b.rows.front())}, {"layers", layers}}},
      {"traffic", traffic}};
  return json.dump();
}

}  // namespace xmoe
