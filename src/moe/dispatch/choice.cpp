#include "moe/dispatch/choice.h"

#include <algorithm>
#include <array>

#include "base/timer.h"
#include "comm/link_rates.h"
#include "moe/dispatch/node_map.h"
#include "moe/dispatch/redundancy.h"
#include "moe/dispatch/synthetic.h"

namespace xmoe {

namespace {

constexpr int kTrials = 5;  // of each dispatcher, in turns: a median that one disturbance does not move
// A trial that takes this long says enough; on slower networks fewer tokens than a layer has are sent, so
// that a start takes seconds and not minutes.
constexpr double kTrialSeconds = 0.1;
constexpr std::int64_t kFirstTokens = 64;

class Trial {
 public:
  Trial(Communicator& ep, const MoeConfig& config, std::int64_t tokens, std::int64_t hidden, DType dtype,
        const Device& device)
      : ep_(ep),
        data_(device, MemoryTag::workspace),
        saved_(device, MemoryTag::saved),
        workspace_(device, MemoryTag::workspace) {
    const RouterConfig& router = config.router;
    const SyntheticRouting uniform =
        synthetic_routing(data_, router.experts, router.top_k, tokens, /*zipf=*/0.0, ep.rank());
    pft_ = build_pft({data_}, data_, router.experts, uniform.top_experts, uniform.top_weights, std::nullopt);
    x_ = data_.zeros(dtype, {tokens, hidden});
    y_ = data_.zeros(dtype, x_.shape());
  }

  // Of the slowest rank, forward: a plan, rows to where their experts are, and back.
  double seconds(Dispatcher& dispatcher) {
    const Context ctx{workspace_};
    ep_.barrier();
    const Timer timer;
    saved_.clear();
    DispatchPlan plan = dispatcher.plan(ctx, saved_, pft_);
    dispatcher.dispatch(ctx, saved_, plan, x_);
    const RowPair results = dispatcher.results(saved_, plan, y_);
    dispatcher.combine(ctx, plan, results, y_);
    synchronize(ctx.device());
    return ep_.all_reduce(timer.seconds(), ReduceOp::max);
  }

 private:
  Communicator& ep_;
  Arena data_, saved_, workspace_;
  Pft pft_;
  Tensor x_, y_;
};

double median(std::array<double, kTrials> times) {
  std::nth_element(times.begin(), times.begin() + kTrials / 2, times.end());
  return times[kTrials / 2];
}

}  // namespace

DispatcherChoice choose_dispatcher(Communicator& ep, Communicator& ep_node, const MoeConfig& config,
                                   std::int64_t tokens, std::int64_t hidden, DType dtype,
                                   const Device& device) {
  if (ep.size() == 1) return {DispatcherKind::flat, "flat: every rank holds all experts"};
  const auto flat = make_flat_dispatcher(ep);
  const auto rbd = make_rbd_dispatcher(ep, ep_node);
  // The most that any rank has, so that all try the same.
  const std::int64_t all_tokens = std::max<std::int64_t>(1, ep.all_reduce(tokens, ReduceOp::max));
  std::int64_t tried = std::min(kFirstTokens, all_tokens);
  while (tried < all_tokens) {
    Trial trial(ep, config, tried, hidden, dtype, device);
    trial.seconds(*flat);  // memory is touched
    trial.seconds(*rbd);
    if (std::max(trial.seconds(*flat), trial.seconds(*rbd)) > kTrialSeconds) break;
    tried = std::min(2 * tried, all_tokens);
  }
  Trial trial(ep, config, tried, hidden, dtype, device);
  std::array<double, kTrials> flat_times{};
  std::array<double, kTrials> rbd_times{};
  trial.seconds(*flat);
  trial.seconds(*rbd);
  for (std::size_t i = 0; i < kTrials; ++i) {
    flat_times[i] = trial.seconds(*flat);
    rbd_times[i] = trial.seconds(*rbd);
  }
  DispatcherChoice choice;
  choice.flat_seconds = median(flat_times);
  choice.rbd_seconds = median(rbd_times);
  choice.kind = choice.rbd_seconds < choice.flat_seconds ? DispatcherKind::rbd : DispatcherKind::flat;
  const bool two_stages = choice.kind == DispatcherKind::rbd;
  const NodeMap nodes(ep.nodes(), ep.size());
  std::vector<std::int64_t> experts;
  for (const auto& ranks : nodes.ranks_of)
    experts.push_back(static_cast<std::int64_t>(ranks.size()) * config.router.experts / ep.size());
  const double redundant = expected_redundancy(experts, config.router.top_k);
  const LinkRates links = measure_links(ep);
  const auto rate = [](double bytes_per_second, const char* where) {
    return bytes_per_second > 0 ? fmt::format(", {:.3g} GB/s a rank {}", 1e-9 * bytes_per_second, where) : "";
  };
  const auto [least, most] = std::minmax(choice.flat_seconds, choice.rbd_seconds);
  choice.why = fmt::format(
      "{}: {} node{}{}{}, {:.1f} % of rows redundant, dispatch + combine {:.3g} ms against {:.3g} ms of {}, "
      "measured with {} tokens a rank",
      two_stages ? "rbd" : "flat", nodes.nodes(), nodes.nodes() == 1 ? "" : "s",
      rate(links.between_nodes, "between nodes"), rate(links.within_node, "within a node"), 100.0 * redundant,
      1e3 * least, 1e3 * most, two_stages ? "flat" : "rbd", tried);
  return choice;
}

}  // namespace xmoe
