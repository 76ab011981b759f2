// The layer on a GPU against the layer on the CPU, both in one process; tests/distributed compares layouts.
#include "moe/layer.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/rng.h"
#include "support/device_test.h"
#include "support/op_case.h"

namespace xmoe {
namespace {

XMOE_GPU_SUITE(MoeLayerOnGpu);

constexpr std::int64_t kTokens = 300;
constexpr std::int64_t kHidden = 64;
constexpr std::int64_t kFfn = 40;
constexpr std::int64_t kShared = 24;
constexpr std::int64_t kExperts = 20;

struct LayerRun {
  LayerRun(const MoeConfig& config, const MoeRecompute& recompute, DType dtype, const Device& device,
           MoePass pass = MoePass::training)
      : self(make_self_communicator("world", device)),
        memory(device, MemoryTag::parameters),
        saved(device, MemoryTag::saved),
        workspace(device, MemoryTag::workspace) {
    const std::int64_t width = preactivation_width(config.activation, kFfn);
    w.router = weight("router", {kExperts, kHidden}, DType::f32);
    w.experts_w1 = weight("w1", {kExperts, width, kHidden}, dtype);
    w.experts_w2 = weight("w2", {kExperts, kHidden, kFfn}, dtype);
    w.shared_w1 = weight("s1", {1, preactivation_width(config.activation, kShared), kHidden}, dtype);
    w.shared_w2 = weight("s2", {1, kHidden, kShared}, dtype);
    // backward is to write these.
    for (const Weight& experts : {w.experts_w1, w.experts_w2})
      fill_random(experts.grad, values({std::numeric_limits<double>::quiet_NaN()}), Rng(0, "unread"));
    const Tensor x = filled("x", {kTokens, kHidden}, dtype, 1.0);
    const Tensor dy = filled("dy", x.shape(), dtype, 1.0);
    y = memory.zeros(dtype, x.shape());
    dx = memory.zeros(dtype, x.shape());
    const RouterSums sums{memory.zeros(DType::f32, {kExperts}), memory.zeros(DType::i64, {kExperts}),
                          memory.zeros(DType::f32, {1})};
    MoeLayer layer(config, w, mesh, recompute);
    const Context ctx{workspace};
    const std::int64_t begin = host_waits();
    layer.forward(ctx, saved, x, y, sums, kept, pass);
    const std::int64_t middle = host_waits();
    if (pass == MoePass::training) layer.backward(ctx, dy, x, kept, {}, dx, Accumulation::write);
    forward_waits = middle - begin;
    backward_waits = host_waits() - middle;
  }
  Tensor filled(const std::string& name, const Shape& shape, DType dtype, double deviation) {
    const Tensor t = memory.tensor(dtype, shape);
    fill_random(t, normal(deviation), Rng(3, name));
    return t;
  }
  Weight weight(const std::string& name, const Shape& shape, DType dtype) {
    return {filled(name, shape, dtype, 0.2), memory.zeros(DType::f32, shape)};
  }

  std::unique_ptr<Communicator> self;
  Mesh mesh{*self, 1};
  Arena memory, saved, workspace;
  MoeWeights w;
  Tensor y, dx;
  MoeSaved kept;
  std::int64_t forward_waits = 0, backward_waits = 0;  // of the host for the GPU
};

MoeConfig layer_config(DispatcherKind dispatcher) {
  MoeConfig config;
  config.router.experts = kExperts;
  config.router.top_k = 3;
  config.router.pre_softmax = true;
  config.ffn_hidden = kFfn;
  config.shared_ffn_hidden = kShared;
  config.activation = Activation::swiglu;
  config.dispatcher = dispatcher;
  return config;
}

void expect_near(const Tensor& on_gpu, const Tensor& on_cpu, DType dtype, const char* name) {
  const std::vector<double> actual = to_doubles(on_gpu);
  const std::vector<double> expected = to_doubles(on_cpu);
  // f32: sums of some hundred terms in other orders. bf16: rounded at several places between.
  const double tolerance = dtype == DType::f32 ? 2e-5 : 0.03;
  double scale = 0.0;
  for (const double e : expected) scale = std::max(scale, std::abs(e));
  ASSERT_GT(scale, 0.0) << name;
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * scale) << name << " " << i;
}

void expect_equal_runs(const MoeConfig& config, const MoeRecompute& recompute, DType dtype,
                       const Device& device) {
  const LayerRun cpu(config, recompute, dtype, {});
  const LayerRun gpu(config, recompute, dtype, device);
  EXPECT_EQ(gpu.kept.dropped, cpu.kept.dropped);
  EXPECT_EQ(gpu.kept.bytes(), cpu.kept.bytes());
  EXPECT_EQ(to_doubles(gpu.kept.top_experts), to_doubles(cpu.kept.top_experts));
  expect_near(gpu.y, cpu.y, dtype, "y");
  expect_near(gpu.dx, cpu.dx, dtype, "dx");
  expect_near(gpu.w.router.grad, cpu.w.router.grad, dtype, "router");
  expect_near(gpu.w.experts_w1.grad, cpu.w.experts_w1.grad, dtype, "experts w1");
  expect_near(gpu.w.experts_w2.grad, cpu.w.experts_w2.grad, dtype, "experts w2");
  expect_near(gpu.w.shared_w1.grad, cpu.w.shared_w1.grad, dtype, "shared w1");
}

TEST_P(MoeLayerOnGpu, EqualsTheCpu) {
  for (const auto dispatcher : {DispatcherKind::flat, DispatcherKind::rbd})
    for (const DType dtype : kComputeDtypes)
      for (const std::int64_t chunks : {1, 3}) {
        SCOPED_TRACE(fmt::format("dispatcher {}, {}, {} chunks", static_cast<int>(dispatcher), name_of(dtype),
                                 chunks));
        MoeConfig config = layer_config(dispatcher);
        config.overlap_chunks = chunks;
        expect_equal_runs(config, {}, dtype, device());
        config.capacity_factor = 0.9;
        expect_equal_runs(config, {.experts = true, .shared = true}, dtype, device());
      }
}

TEST_P(MoeLayerOnGpu, PaddedEqualsTheCpu) {
  MoeConfig config = layer_config(DispatcherKind::padded);
  config.capacity_factor = 0.9;
  expect_equal_runs(config, {}, DType::f32, device());
}

TEST_P(MoeLayerOnGpu, InferenceEqualsTheCpu) {
  MoeConfig config = layer_config(DispatcherKind::flat);
  config.capacity_factor = 0.5;
  const LayerRun cpu(config, {}, DType::f32, {}, MoePass::inference);
  const LayerRun gpu(config, {}, DType::f32, device(), MoePass::inference);
  EXPECT_EQ(gpu.kept.dropped, 0);
  expect_near(gpu.y, cpu.y, DType::f32, "y");
}

// The host must know how many rows the experts get, and nothing else: the GPU has work queued all the time.
TEST_P(MoeLayerOnGpu, TheHostWaitsOnce) {
  MoeConfig config = layer_config(DispatcherKind::flat);
  for (const std::int64_t chunks : {1, 3})
    for (const bool dropping : {false, true}) {
      config.overlap_chunks = chunks;
      if (dropping) config.capacity_factor = 0.9;
      SCOPED_TRACE(fmt::format("{} chunks{}", chunks, dropping ? ", dropping" : ""));
      const LayerRun run(config, {}, DType::bf16, device());
      EXPECT_EQ(run.forward_waits, 1);
      EXPECT_EQ(run.backward_waits, 0);
      config.capacity_factor.reset();
    }
}

// The same bits every time.
TEST_P(MoeLayerOnGpu, RepeatsItself) {
  MoeConfig config = layer_config(DispatcherKind::flat);
  config.capacity_factor = 0.9;
  const LayerRun one(config, {}, DType::bf16, device());
  const LayerRun two(config, {}, DType::bf16, device());
  EXPECT_OK(compare_bits(two.y, one.y, "y"));
  EXPECT_OK(compare_bits(two.dx, one.dx, "dx"));
  EXPECT_OK(compare_bits(two.w.experts_w1.grad, one.w.experts_w1.grad, "experts w1"));
  EXPECT_OK(compare_bits(two.w.router.grad, one.w.router.grad, "router"));
}

}  // namespace
}  // namespace xmoe
