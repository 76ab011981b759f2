// The padding-free dispatcher beside the padded one on several ranks, both at capacity factor 1.25, and the
// padding-free one without dropping: time of an MoE layer forward and backward, bytes that a rank sends,
// bytes that it keeps for backward. Run under mpirun.
//
// Bounds: of bytes the least that this routing needs (rows that change rank, in each of the four exchanges,
// and a weight for each; rows of h and rows that came from elsewhere); of time the padding-free layer without
// dropping does the same work as its own baseline.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>

#include "base/log.h"
#include "base/rng.h"
#include "base/timer.h"
#include "bench/support/bench.h"
#include "moe/layer.h"

namespace {

using namespace xmoe;

constexpr std::int64_t kTokens = 2048;  // a rank
constexpr std::int64_t kHidden = 512;
constexpr std::int64_t kFfn = 256;
constexpr std::int64_t kExperts = 32;
constexpr std::int64_t kTopK = 4;
constexpr double kCapacityFactor = 1.25;
constexpr int kRepeats = 15;

struct Result {
  double milliseconds = 0.0;  // median of the slowest rank's
  double sent = 0.0;          // bytes a step, mean over ranks
  double kept = 0.0;          // bytes, mean over ranks
  double least_sent = 0.0, least_kept = 0.0;
  double dropped = 0.0;  // share of assignments
};

class Layer {
 public:
  Layer(const Mesh& mesh, const MoeConfig& config, DType dtype)
      : ep_(mesh.ep()),
        memory_({}, MemoryTag::parameters),
        saved_({}, MemoryTag::saved),
        workspace_({}, MemoryTag::workspace) {
    const std::int64_t experts = kExperts / ep_.size();
    MoeWeights w;
    w.router = {filled({kExperts, kHidden}, DType::f32, 0.05, "router"),
                memory_.zeros(DType::f32, {kExperts, kHidden})};
    w.experts_w1 = weight({experts, 2 * kFfn, kHidden}, dtype);
    w.experts_w2 = weight({experts, kHidden, kFfn}, dtype);
    const std::string mine = std::to_string(ep_.rank());
    x_ = filled({kTokens, kHidden}, dtype, 1.0, "x" + mine);
    dy_ = filled({kTokens, kHidden}, dtype, 1.0, "dy" + mine);
    y_ = memory_.zeros(dtype, x_.shape());
    dx_ = memory_.zeros(dtype, x_.shape());
    sums_ = {memory_.zeros(DType::f32, {kExperts}), memory_.zeros(DType::i64, {kExperts}),
             memory_.zeros(DType::f32, {1})};
    layer_ = std::make_unique<MoeLayer>(config, w, mesh);
  }

  Result measure() {
    for (int i = 0; i < 3; ++i) step();
    Result result;
    const std::int64_t before = ep_.traffic().bytes_sent;
    step();
    result.sent = mean(static_cast<double>(ep_.traffic().bytes_sent - before));
    result.kept = mean(static_cast<double>(kept_.bytes()));
    result.dropped = mean(static_cast<double>(kept_.dropped)) / static_cast<double>(kTokens * kTopK);
    count_least(result);
    std::vector<double> times;
    for (int i = 0; i < kRepeats; ++i) {
      ep_.barrier();
      const Timer timer;
      step();
      times.push_back(1e3 * ep_.all_reduce(timer.seconds(), ReduceOp::max));
    }
    std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
    result.milliseconds = times[kRepeats / 2];
    return result;
  }

 private:
  void step() {
    const Context ctx{workspace_};
    saved_.clear();
    kept_ = {};
    layer_->forward(ctx, saved_, x_, y_, sums_, kept_);
    layer_->backward(ctx, dy_, x_, kept_, {}, dx_);
  }

  // From the routing alone: kept assignments to experts of other ranks leave, those of other ranks to experts
  // here arrive.
  void count_least(Result& result) {
    const auto element = static_cast<double>(size_of(x_.dtype()));
    const std::int64_t local = kExperts / ep_.size();
    std::int64_t leaving = 0;
    std::int64_t staying = 0;
    for (std::int64_t a = 0; a < kept_.top_experts.numel(); ++a) {
      if (kept_.chunks[0].plan.combine_index.data<std::int32_t>()[a] < 0) continue;
      const bool here = kept_.top_experts.data<std::int32_t>()[a] / local == ep_.rank();
      (here ? staying : leaving) += 1;
    }
    const double left = mean(static_cast<double>(leaving));  // as many arrive as leave, in the mean
    const double stayed = mean(static_cast<double>(staying));
    result.least_sent = 4.0 * left * static_cast<double>(kHidden) * element + 8.0 * left;
    result.least_kept =
        element * ((left + stayed) * 2.0 * static_cast<double>(kFfn) + left * static_cast<double>(kHidden));
  }

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

  Communicator& ep_;
  Arena memory_, saved_, workspace_;
  Tensor x_, dy_, y_, dx_;
  RouterSums sums_;
  std::unique_ptr<MoeLayer> layer_;
  MoeSaved kept_;
};

void run(Communicator& world, const std::string& json) {
  if (kExperts % world.size() != 0)
    fail_everywhere("{} experts do not divide over {} ranks: run on 1, 2, 4, 8, 16 or 32", kExperts,
                    world.size());
  MoeConfig config;
  config.router.experts = kExperts;
  config.router.top_k = kTopK;
  config.router.pre_softmax = true;
  config.ffn_hidden = kFfn;
  config.activation = Activation::swiglu;
  const Mesh mesh(world, world.size());
  Bench bench;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    struct Way {
      const char* name;
      DispatcherKind kind;
      bool drop;
    };
    for (const auto& [name, kind, drop] :
         {Way{"flat", DispatcherKind::flat, true}, Way{"padded", DispatcherKind::padded, true},
          Way{"flat_no_drop", DispatcherKind::flat, false}}) {
      config.dispatcher = kind;
      config.capacity_factor = drop ? std::optional<double>(kCapacityFactor) : std::nullopt;
      const Result r = Layer(mesh, config, dtype).measure();
      if (world.rank() != 0) continue;
      const std::string shape =
          fmt::format("{} ranks x T {} H {} I {} E {} k {}, {:.1f} % dropped", world.size(), kTokens, kHidden,
                      kFfn, kExperts, kTopK, 100.0 * r.dropped);
      bench.add({fmt::format("dispatch.{}.step", name), shape, std::string(name_of(dtype)), r.milliseconds,
                 "ms", 0.0});
      bench.add({fmt::format("dispatch.{}.sent", name), shape, std::string(name_of(dtype)), r.sent / 1e6,
                 "MB", r.least_sent / 1e6});
      bench.add({fmt::format("dispatch.{}.kept", name), shape, std::string(name_of(dtype)), r.kept / 1e6,
                 "MB", r.least_kept / 1e6});
    }
  }
  if (world.rank() == 0 && !json.empty()) append_json(bench.rows(), json);
}

}  // namespace

int main(int argc, char** argv) {
  CommunicationSession session(&argc, &argv);
  log::set_rank(session.world().rank(), session.world().size());
  CLI::App app("The padding-free dispatcher beside the padded one; start it with mpirun -n RANKS.");
  std::string json;
  app.add_option("--json", json, "Add the rows to this file, a list of objects");
  CLI11_PARSE(app, argc, argv);
  try {
    run(session.world(), json);
  } catch (const std::exception& error) {
    log::write_error(error.what());
    session.abort(1);
  }
  return 0;
}
