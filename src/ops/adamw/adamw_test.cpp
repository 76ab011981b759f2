#include "ops/adamw/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/device_test.h"
#include "support/op_case.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(AdamW);

// One parameter's state.
struct Element {
  double w, m, v;
};

Element step_in_double(const AdamWOptions& o, double grad, Element e) {
  const double g = o.grad_scale * grad;
  e.m = o.beta1 * e.m + (1.0 - o.beta1) * g;
  e.v = o.beta2 * e.v + (1.0 - o.beta2) * g * g;
  const double m = e.m / (1.0 - std::pow(o.beta1, static_cast<double>(o.step)));
  const double v = e.v / (1.0 - std::pow(o.beta2, static_cast<double>(o.step)));
  e.w -= o.learning_rate * (m / (std::sqrt(v) + o.epsilon) + o.weight_decay * e.w);
  return e;
}

struct State {
  State(const Device& device, DType dtype, std::int64_t count)
      : arena(device, MemoryTag::optimizer),
        grad(arena.tensor(DType::f32, {count})),
        master(arena.tensor(DType::f32, {count})),
        m(arena.zeros(DType::f32, {count})),
        v(arena.zeros(DType::f32, {count})),
        value(dtype == DType::f32 ? master : arena.tensor(dtype, {count})) {
    fill_random(master, normal(), Rng(1, "master"));
  }

  Arena arena;
  Tensor grad, master, m, v, value;
};

void check_steps(const Device& device, DType dtype, std::int64_t count) {
  State s(device, dtype, count);
  std::vector<Element> expected;
  for (const double w : to_doubles(s.master)) expected.push_back({w, 0.0, 0.0});
  AdamWOptions o;
  o.learning_rate = 1e-2;
  o.grad_scale = 0.5;
  constexpr int kSteps = 5;
  for (int step = 1; step <= kSteps; ++step) {
    o.step = step;
    fill_random(s.grad, normal(), Rng(static_cast<std::uint64_t>(step), "grad"));
    const auto grad = to_doubles(s.grad);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = step_in_double(o, grad[i], expected[i]);
    adamw({s.arena}, o, s.grad, s.master, s.m, s.v, s.value);
  }
  std::vector<double> w;
  std::vector<double> m;
  std::vector<double> v;
  for (const auto& e : expected) {
    w.push_back(e.w);
    m.push_back(e.m);
    v.push_back(e.v);
  }
  const Tolerance f32 = tolerance_for(DType::f32, kSteps);
  EXPECT_OK(compare(s.master, w, f32, "master"));
  EXPECT_OK(compare(s.m, m, f32, "m"));
  EXPECT_OK(compare(s.v, v, f32, "v"));
  // The value is the rounded master, exactly.
  std::vector<double> rounded = to_doubles(s.master);
  if (dtype == DType::bf16)
    for (double& r : rounded) r = static_cast<double>(static_cast<float>(bf16(static_cast<float>(r))));
  EXPECT_OK(compare(s.value, rounded, Tolerance{}, "value"));
}

TEST_P(AdamW, AgreesWithTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    check_steps(device(), dtype, 1);
    check_steps(device(), dtype, 17);
    check_steps(device(), dtype, 50'001);  // more than one thread's share
    check_steps(device(), dtype, 0);
  }
}

// At step 1 the corrected moments are the gradient and its square: the step is the learning rate, whatever
// the size of the gradient.
TEST_P(AdamW, FirstStepByHand) {
  State s(device(), DType::f32, 3);
  from_doubles(std::vector<double>{1.0, 1.0, 1.0}, s.master);
  from_doubles(std::vector<double>{1e-3, -100.0, 0.0}, s.grad);
  AdamWOptions o;
  o.learning_rate = 0.125;
  o.weight_decay = 0.0;
  o.epsilon = 1e-30;  // only so that 0 / 0 does not occur
  adamw({s.arena}, o, s.grad, s.master, s.m, s.v, s.value);
  EXPECT_OK(compare(s.master, std::vector<double>{0.875, 1.125, 1.0}, tolerance_for(DType::f32), "master"));
}

// Decay is decoupled: it does not pass through the moments.
TEST_P(AdamW, DecayIsDecoupled) {
  State s(device(), DType::f32, 1);
  from_doubles(std::vector<double>{2.0}, s.master);
  from_doubles(std::vector<double>{0.0}, s.grad);
  AdamWOptions o;
  o.learning_rate = 0.5;
  o.weight_decay = 0.25;
  adamw({s.arena}, o, s.grad, s.master, s.m, s.v, s.value);
  EXPECT_EQ(to_doubles(s.master), std::vector<double>{1.75});
  EXPECT_EQ(to_doubles(s.m), std::vector<double>{0.0});
}

TEST_P(AdamW, ChecksArguments) {
  State s(device(), DType::bf16, 4);
  AdamWOptions o;
  o.step = 0;
  EXPECT_THROW(adamw({s.arena}, o, s.grad, s.master, s.m, s.v, s.value), InvariantError);
  o.step = 1;
  EXPECT_THROW(adamw({s.arena}, o, s.grad, s.master, s.m, s.v, s.grad), InvariantError);
  EXPECT_THROW(adamw({s.arena}, o, s.grad.slice(0, 3), s.master, s.m, s.v, s.value), InvariantError);
}

}  // namespace
}  // namespace xmoe
