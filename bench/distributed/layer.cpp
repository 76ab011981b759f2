// Time of an MoE layer forward and backward, bytes that a rank sends, bytes that it keeps for backward, by
// dispatcher: all at capacity factor 1.25, and the padding-free one without dropping. Gradients of the
// experts' weights are written, as in the first micro-batch of a step.
//
// Bounds: of bytes the least that this routing needs in the dispatcher's way of sending (one row for each
// assignment, or one for each rank, in each of the four passages, and a weight and its gradient; rows of h
// and rows that came from elsewhere); of time the layer without dropping does the same work as its own
// baseline.
#include <algorithm>
#include <memory>

#include "base/rng.h"
#include "base/timer.h"
#include "bench/distributed/options.h"
#include "moe/layer.h"

namespace xmoe::dispatch_bench {

namespace {

struct Result {
  double milliseconds = 0.0;  // median of the slowest rank's
  double sent = 0.0;          // bytes a step, mean over ranks
  double kept = 0.0;          // bytes, mean over ranks
  double least_sent = 0.0, least_kept = 0.0;
  double dropped = 0.0;  // share of assignments
};

class Layer {
 public:
  Layer(const Options& options, const Mesh& mesh, const MoeConfig& config, DType dtype)
      : options_(options),
        config_(config),
        ep_(mesh.ep()),
        node_(mesh.ep_node()),
        memory_({}, MemoryTag::parameters),
        saved_({}, MemoryTag::saved),
        workspace_({}, MemoryTag::workspace) {
    const std::int64_t experts = options_.experts / ep_.size();
    MoeWeights w;
    w.router = {filled({options_.experts, options_.hidden}, DType::f32, 0.05, "router"),
                memory_.zeros(DType::f32, {options_.experts, options_.hidden})};
    w.experts_w1 = weight({experts, 2 * options_.ffn, options_.hidden}, dtype);
    w.experts_w2 = weight({experts, options_.hidden, options_.ffn}, dtype);
    const std::string mine = std::to_string(ep_.rank());
    x_ = filled({options_.tokens, options_.hidden}, dtype, 1.0, "x" + mine);
    dy_ = filled({options_.tokens, options_.hidden}, dtype, 1.0, "dy" + mine);
    y_ = memory_.zeros(dtype, x_.shape());
    dx_ = memory_.zeros(dtype, x_.shape());
    sums_ = {memory_.zeros(DType::f32, {options_.experts}), memory_.zeros(DType::i64, {options_.experts}),
             memory_.zeros(DType::f32, {1})};
    layer_ = std::make_unique<MoeLayer>(config, w, mesh);
  }

  Result measure() {
    for (int i = 0; i < 3; ++i) step();
    Result result;
    const std::int64_t before = bytes_sent();
    step();
    result.sent = mean(static_cast<double>(bytes_sent() - before));
    result.kept = mean(static_cast<double>(kept_.bytes()));
    result.dropped =
        mean(static_cast<double>(kept_.dropped)) / static_cast<double>(options_.tokens * options_.top_k);
    count_least(result, config_.dispatcher == DispatcherKind::rbd);
    std::vector<double> times;
    for (int i = 0; i < options_.repeats; ++i) {
      ep_.barrier();
      const Timer timer;
      step();
      times.push_back(1e3 * ep_.all_reduce(timer.seconds(), ReduceOp::max));
    }
    std::nth_element(times.begin(), times.begin() + options_.repeats / 2, times.end());
    result.milliseconds = times[static_cast<std::size_t>(options_.repeats / 2)];
    return result;
  }

 private:
  void step() {
    const Context ctx{workspace_};
    saved_.clear();
    kept_ = {};
    layer_->forward(ctx, saved_, x_, y_, sums_, kept_);
    layer_->backward(ctx, dy_, x_, kept_, {}, dx_, Accumulation::write);
  }

  // From the routing alone. A row that changes rank goes once for each assignment or, in two stages, once for
  // each rank; out and back, in forward and backward, as do an assignment's weight and its gradient.
  void count_least(Result& result, bool once_per_rank) {
    const auto element = static_cast<double>(size_of(x_.dtype()));
    const std::int64_t local = options_.experts / ep_.size();
    std::int64_t computed = 0;  // assignments
    std::int64_t leaving = 0;   // those to experts of other ranks
    std::int64_t pairs = 0;     // distinct (token, other rank)
    const std::vector<TokenChunk>& chunks = kept_.chunks;
    std::vector<std::int64_t> last_token(static_cast<std::size_t>(ep_.size()), -1);
    for (const TokenChunk& chunk : chunks) {
      const auto* index = chunk.plan.combine_index.data<std::int32_t>();
      for (std::int64_t a = 0; a < chunk.plan.combine_index.numel(); ++a) {
        if (index[a] < 0) continue;
        const std::int64_t t = chunk.first + a / options_.top_k;
        const auto* chosen = kept_.top_experts.data<std::int32_t>() + t * options_.top_k;
        const std::int64_t rank = chosen[a % options_.top_k] / local;
        ++computed;
        if (rank == ep_.rank()) continue;
        ++leaving;
        std::int64_t& last = last_token[static_cast<std::size_t>(rank)];
        if (last != t) ++pairs;
        last = t;
      }
    }
    const double rows = mean(static_cast<double>(once_per_rank ? pairs : leaving));
    const double row_bytes = static_cast<double>(options_.hidden) * element;
    // As many arrive as leave, in the mean.
    result.least_sent = 4.0 * rows * row_bytes + 8.0 * mean(static_cast<double>(leaving));
    result.least_kept =
        element * mean(static_cast<double>(computed)) * 2.0 * static_cast<double>(options_.ffn) +
        rows * row_bytes;
  }

  std::int64_t bytes_sent() const { return ep_.traffic().bytes_sent + node_.traffic().bytes_sent; }
  double mean(double value) { return ep_.all_reduce(value, ReduceOp::sum) / ep_.size(); }
  Tensor filled(const Shape& shape, DType dtype, double deviation, const std::string& name) {
    const Tensor t = memory_.tensor(dtype, shape);
    fill_random(t, normal(deviation), Rng(1, name));
    return t;
  }
  Weight weight(const Shape& shape, DType dtype) {
    return {filled(shape, dtype, 0.05, "weight" + std::to_string(ep_.rank())),
            memory_.zeros(DType::f32, shape)};
  }

  Options options_;
  MoeConfig config_;
  Communicator& ep_;
  Communicator& node_;
  Arena memory_, saved_, workspace_;
  Tensor x_, dy_, y_, dx_;
  RouterSums sums_;
  std::unique_ptr<MoeLayer> layer_;
  MoeSaved kept_;
};

}  // namespace

void bench_layers(Bench& bench, const Options& options, const Mesh& mesh) {
  MoeConfig config;
  config.router.experts = options.experts;
  config.router.top_k = options.top_k;
  config.router.pre_softmax = true;
  config.ffn_hidden = options.ffn;
  config.activation = Activation::swiglu;
  config.overlap_chunks = options.chunks;
  for (const DType dtype : options.dtypes) {
    struct Way {
      const char* name;
      DispatcherKind kind;
      bool drop;
    };
    for (const auto& [name, kind, drop] :
         {Way{"flat", DispatcherKind::flat, true}, Way{"padded", DispatcherKind::padded, true},
          Way{"rbd", DispatcherKind::rbd, true}, Way{"flat_no_drop", DispatcherKind::flat, false}}) {
      if (kind == DispatcherKind::padded && options.chunks > 1) continue;  // it cannot be cut
      config.dispatcher = kind;
      config.capacity_factor = drop ? std::optional<double>(kCapacityFactor) : std::nullopt;
      const Result r = Layer(options, mesh, config, dtype).measure();
      if (mesh.world().rank() != 0) continue;
      const std::string shape =
          fmt::format("{}, {:.1f} % dropped", describe(options, mesh), 100.0 * r.dropped);
      const std::string type(name_of(dtype));
      bench.add({fmt::format("dispatch.{}.step", name), shape, type, r.milliseconds, "ms", 0.0});
      bench.add({fmt::format("dispatch.{}.sent", name), shape, type, r.sent / 1e6, "MB", r.least_sent / 1e6});
      bench.add({fmt::format("dispatch.{}.kept", name), shape, type, r.kept / 1e6, "MB", r.least_kept / 1e6});
    }
  }
}

}  // namespace xmoe::dispatch_bench
