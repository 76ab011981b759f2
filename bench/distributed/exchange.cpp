// Rows to their experts and back, with nothing computed between: what the network makes of each dispatcher.
#include <algorithm>
#include <memory>

#include "base/timer.h"
#include "bench/distributed/options.h"
#include "bench/support/link_counters.h"
#include "moe/dispatch/choice.h"
#include "moe/dispatch/node_map.h"
#include "moe/dispatch/redundancy.h"
#include "moe/dispatch/synthetic.h"
#include "support/pilot_load.h"

namespace xmoe::dispatch_bench {

namespace {

struct Bytes {
  double between = 0.0, metadata = 0.0, within = 0.0, wire = 0.0;  // of a forward, all ranks together
};

class Exchange {
 public:
  Exchange(const Options& options, const Mesh& mesh, DType dtype)
      : options_(options), mesh_(mesh), nodes_(mesh.ep().nodes(), mesh.ep().size()) {
    routing_ = synthetic_routing(data_, options.experts, options.top_k, options.tokens, options.zipf,
                                 mesh.ep().rank());
    x_ = data_.zeros(dtype, {options.tokens, options.hidden});
    y_ = data_.zeros(dtype, x_.shape());
    d_weights_ = data_.zeros(DType::f32, {options.tokens, options.top_k});
  }

  void use(DispatcherKind kind) {
    MoeConfig config;
    config.dispatcher = kind;
    std::optional<std::int64_t> capacity;
    if (kind == DispatcherKind::padded) {
      config.capacity_factor = kCapacityFactor;
      capacity = expert_capacity(options_.tokens, options_.top_k, options_.experts, kCapacityFactor,
                                 config.min_capacity);
    }
    dispatcher_ = make_dispatcher(mesh_.ep(), mesh_.ep_node(), config);
    pft_ = build_pft({data_}, data_, options_.experts, routing_.top_experts, routing_.top_weights, capacity);
    for (int i = 0; i < 2; ++i) seconds(/*backward=*/true);  // memory is touched, arenas have their size
  }

  // Of the slowest rank.
  double seconds(bool backward) {
    const Context ctx{workspace_};
    saved_.clear();
    mesh_.ep().barrier();
    const Timer timer;
    forward();
    if (backward) {
      const ArenaScope scope(workspace_);
      dispatcher_->dispatch(ctx, workspace_, plan_, x_);
      const RowPair results = dispatcher_->results(workspace_, plan_, y_);
      dispatcher_->combine(ctx, plan_, results, y_);
      const Tensor dweights = workspace_.zeros(DType::f32, {plan_.expert_rows().total()});
      dispatcher_->return_weights(ctx, plan_, dweights, d_weights_);
    }
    return mesh_.ep().all_reduce(timer.seconds(), ReduceOp::max);
  }

  Bytes bytes() {
    const auto sent = [&] { return mesh_.ep().traffic().bytes_sent + mesh_.ep_node().traffic().bytes_sent; };
    const auto between = [&] { return mesh_.ep().traffic().bytes_between_nodes; };
    // One rank of a node reads the counter. Barriers of some bytes and acknowledgements are in it too.
    const bool reads = mesh_.ep_node().rank() == 0 && link_bytes_sent().has_value();
    constexpr int kForwards = 4;
    mesh_.ep().barrier();
    const std::int64_t wire_before = reads ? *link_bytes_sent() : 0;
    const std::int64_t sent_before = sent();
    const std::int64_t between_before = between();
    for (int i = 0; i < kForwards; ++i) {
      saved_.clear();
      forward();
    }
    const std::int64_t crossed = between() - between_before;
    const std::int64_t stayed = sent() - sent_before - crossed;
    mesh_.ep().barrier();
    const std::int64_t wire = reads ? *link_bytes_sent() - wire_before : 0;
    const auto each = [&](std::int64_t value) { return total(value) / kForwards; };
    Bytes bytes{each(crossed), 0.0, each(stayed), each(wire)};
    bytes.metadata = bytes.between - total(rows_between() * row_bytes());
    return bytes;
  }

  // Distinct (token, node) pairs of all ranks, and of those the ones of other nodes than the token's.
  std::pair<double, double> pairs() const {
    std::int64_t all = 0;
    std::int64_t remote = 0;
    const int own = nodes_.node(mesh_.ep().rank());
    std::vector<std::int64_t> last(static_cast<std::size_t>(nodes_.nodes()), -1);
    const std::int64_t local = options_.experts / nodes_.ranks();
    for (std::int64_t a = 0; a < routing_.top_experts.numel(); ++a) {
      const int node = nodes_.node(static_cast<int>(routing_.top_experts.data<std::int32_t>()[a] / local));
      std::int64_t& seen = last[static_cast<std::size_t>(node)];
      if (seen == a / options_.top_k) continue;
      seen = a / options_.top_k;
      ++all;
      remote += node == own ? 0 : 1;
    }
    return {total(all), total(remote)};
  }

  double pilots(bool at_random) const {
    auto loads = pilot_loads(nodes_, mesh_.ep().rank(), routing_.top_experts, options_.experts, at_random);
    for (double& load : loads) load = mesh_.ep().all_reduce(load, ReduceOp::sum);
    return pilot_imbalance(nodes_, loads);
  }

  std::int64_t row_bytes() const { return options_.hidden * static_cast<std::int64_t>(size_of(x_.dtype())); }

 private:
  void forward() {
    const Context ctx{workspace_};
    plan_ = dispatcher_->plan(ctx, saved_, pft_);
    dispatcher_->dispatch(ctx, saved_, plan_, x_);
    const RowPair results = dispatcher_->results(saved_, plan_, y_);
    dispatcher_->combine(ctx, plan_, results, y_);
  }
  // Rows that this rank sent to other nodes in dispatch and combine together.
  std::int64_t rows_between() const {
    const bool two_stages = !plan_.relay.crossing.send_rows.empty();
    const auto& out = two_stages ? plan_.relay.crossing.send_rows : plan_.send_rows;
    const auto& back = two_stages ? plan_.relay.crossing.recv_rows : plan_.recv_rows;
    std::int64_t rows = 0;
    for (int r = 0; r < nodes_.ranks(); ++r)
      if (mesh_.ep().on_other_node(r))
        rows += out[static_cast<std::size_t>(r)] + back[static_cast<std::size_t>(r)];
    return rows;
  }
  double total(std::int64_t value) const {
    return static_cast<double>(mesh_.ep().all_reduce(value, ReduceOp::sum));
  }

  Options options_;
  const Mesh& mesh_;
  NodeMap nodes_;
  Arena data_{{}, MemoryTag::parameters}, saved_{{}, MemoryTag::saved}, workspace_{{}, MemoryTag::workspace};
  SyntheticRouting routing_;
  Tensor x_, y_, d_weights_;
  std::unique_ptr<Dispatcher> dispatcher_;
  Pft pft_;
  DispatchPlan plan_;
};

double median_ms(std::vector<double> seconds) {
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return 1e3 * *middle;
}

}  // namespace

void bench_exchanges(Bench& bench, const Options& options, const Mesh& mesh) {
  struct Way {
    const char* name;
    DispatcherKind kind;
    std::vector<double> forward = {}, step = {};
    Bytes bytes = {};
  };
  const bool prints = mesh.world().rank() == 0;
  const NodeMap nodes(mesh.ep().nodes(), mesh.ep().size());
  const std::string shape = describe(options, mesh);
  for (const DType dtype : options.dtypes) {
    const std::string type(name_of(dtype));
    std::vector<Way> ways = {
        {"padded", DispatcherKind::padded}, {"flat", DispatcherKind::flat}, {"rbd", DispatcherKind::rbd}};
    std::vector<std::unique_ptr<Exchange>> exchanges;
    for (Way& way : ways) {
      exchanges.push_back(std::make_unique<Exchange>(options, mesh, dtype));
      exchanges.back()->use(way.kind);
      way.bytes = exchanges.back()->bytes();
    }
    // In turns, so that what disturbs one disturbs all.
    for (int i = 0; i < options.repeats; ++i)
      for (std::size_t w = 0; w < ways.size(); ++w) {
        ways[w].forward.push_back(exchanges[w]->seconds(/*backward=*/false));
        ways[w].step.push_back(exchanges[w]->seconds(/*backward=*/true));
      }
    const Exchange& any = *exchanges.front();
    const auto [pairs, remote_pairs] = any.pairs();
    const double chosen_imbalance = any.pilots(/*at_random=*/false);
    const double random_imbalance = any.pilots(/*at_random=*/true);
    MoeConfig config;
    config.router.experts = options.experts;
    config.router.top_k = options.top_k;
    const DispatcherChoice choice =
        choose_dispatcher(mesh.ep(), mesh.ep_node(), config, options.tokens, options.hidden, dtype);
    if (!prints) continue;

    const auto add = [&](const std::string& name, double value, const char* unit, double bound) {
      bench.add({"dispatch." + name, shape, type, value, unit, bound});
    };
    const double least = 2.0 * remote_pairs * static_cast<double>(any.row_bytes());
    double fastest = median_ms(ways[0].forward);
    for (const Way& way : ways) fastest = std::min(fastest, median_ms(way.forward));
    for (const Way& way : ways) {
      const std::string name = way.name;
      add(name + ".forward", median_ms(way.forward), "ms", fastest);
      add(name + ".step", median_ms(way.step), "ms", 0.0);
      add(name + ".between", way.bytes.between / 1e6, "MB", least / 1e6);
      add(name + ".metadata", way.bytes.metadata / 1e6, "MB", 0.0);
      add(name + ".within", way.bytes.within / 1e6, "MB", 0.0);
      if (link_bytes_sent()) add(name + ".wire", way.bytes.wire / 1e6, "MB", way.bytes.between / 1e6);
    }
    const double flat = median_ms(ways[1].forward);
    const double rbd = median_ms(ways[2].forward);
    add("auto.forward", choice.kind == DispatcherKind::rbd ? rbd : flat, "ms", std::min(flat, rbd));
    const double assignments = static_cast<double>(options.tokens * options.top_k * mesh.ep().size());
    std::vector<std::int64_t> experts;
    for (const auto& ranks : nodes.ranks_of)
      experts.push_back(static_cast<std::int64_t>(ranks.size()) * options.experts / nodes.ranks());
    add("redundancy", 100.0 * (1.0 - pairs / assignments), "%",
        100.0 * expected_redundancy(experts, options.top_k));
    add("pilots", chosen_imbalance, "", random_imbalance);
    fmt::print("auto takes {}\n", choice.why);
  }
}

}  // namespace xmoe::dispatch_bench
