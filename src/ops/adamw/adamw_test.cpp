#include "ops/adamw/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/split_float.h"
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

struct Types {
  DType value = DType::f32;
  DType m = DType::f32;
  DType v = DType::f32;
  DType grad = DType::f32;
};

struct State {
  State(const Device& device, const Types& types, std::int64_t count)
      : arena(device, MemoryTag::optimizer),
        grad(arena.zeros(types.grad, {count})),
        value(arena.tensor(types.value, {count})),
        remainder(types.value == DType::f32 ? Tensor{} : arena.zeros(DType::i16, {count})),
        m(arena.zeros(types.m, {count})),
        v(arena.zeros(types.v, {count})) {
    fill_random(value, normal(), Rng(1, "value"));
  }

  void step(const AdamWOptions& options) { adamw({arena}, options, grad, value, remainder, m, v); }

  // What value and remainder stand for.
  std::vector<double> weights() const {
    std::vector<double> w = to_doubles(value);
    if (!remainder.defined()) return w;
    const std::vector<double> low = to_doubles(remainder);
    with_half({value.dtype()}, [&]<typename T>(T) {
      for (std::size_t i = 0; i < w.size(); ++i) {
        const T high(static_cast<float>(w[i]));
        w[i] = static_cast<double>(SplitFloat<T>::join(high.bits, static_cast<std::int16_t>(low[i])));
      }
    });
    return w;
  }

  Arena arena;
  Tensor grad, value, remainder, m, v;
};

void check_steps(const Device& device, const Types& types, std::int64_t count) {
  State s(device, types, count);
  std::vector<Element> expected;
  for (const double w : s.weights()) expected.push_back({w, 0.0, 0.0});
  AdamWOptions o;
  o.learning_rate = 1e-2;
  o.grad_scale = 0.5;
  constexpr int kSteps = 5;
  for (int step = 1; step <= kSteps; ++step) {
    o.step = step;
    o.rounding_key = static_cast<std::uint64_t>(step);
    fill_random(s.grad, normal(), Rng(static_cast<std::uint64_t>(step), "grad"));
    const auto grad = to_doubles(s.grad);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = step_in_double(o, grad[i], expected[i]);
    s.step(o);
  }
  std::vector<double> w;
  std::vector<double> m;
  std::vector<double> v;
  for (const auto& e : expected) {
    w.push_back(e.w);
    m.push_back(e.m);
    v.push_back(e.v);
  }
  // A moment in bf16 errs by a unit in each step (to either neighbour: twice the roundoff), and what is made
  // of it errs with it.
  const auto of_moment = [](DType dtype) {
    if (dtype == DType::f32) return tolerance_for(DType::f32, kSteps);
    const double unit = 2.0 * unit_roundoff(DType::bf16);
    return Tolerance{.relative = kSteps * unit, .of_rms = kSteps * unit, .norm = kSteps * unit};
  };
  EXPECT_OK(compare(s.m, m, of_moment(types.m), "m"));
  EXPECT_OK(compare(s.v, v, of_moment(types.v), "v"));
  const Tolerance of_weight = of_moment(types.m == DType::f32 ? types.v : types.m);
  EXPECT_OK(compare(s.weights(), w, of_weight, "weights"));
  // The value is the rounded weight, exactly.
  std::vector<double> rounded = s.weights();
  if (types.value != DType::f32)
    with_half({types.value}, [&]<typename T>(T) {
      for (double& r : rounded) {
        T high;
        high.bits = SplitFloat<T>::value(static_cast<float>(r));
        r = static_cast<double>(static_cast<float>(high));
      }
    });
  EXPECT_OK(compare(s.value, rounded, Tolerance{}, "value"));
}

// Gradients whose squares vanish or overflow, and a moment that did so before: no weight becomes NaN.
TEST_P(AdamW, ExtremesAreThoseOfTheCpu) {
  const std::vector<double> gradients = {0.0, 1e-30, 1e-22, 1e-12, 1e18, 1e19, 1e20, 1.0};
  const auto count = static_cast<std::int64_t>(gradients.size());
  AdamWOptions o;
  o.weight_decay = 0.1;
  State on_cpu({}, {}, count);
  State on_device(device(), {}, count);
  for (State* s : {&on_cpu, &on_device}) {
    from_doubles(gradients, s->grad);
    from_doubles(std::vector<double>{std::numeric_limits<double>::infinity()}, s->v.slice(count - 1, count));
    for (int step = 1; step <= 3; ++step) {
      o.step = step;
      s->step(o);
    }
  }
  for (const double w : to_doubles(on_device.value)) EXPECT_TRUE(std::isfinite(w));
  EXPECT_OK(compare(on_device.value, to_doubles(on_cpu.value), tolerance_for(DType::f32, 1), "weights"));
}

TEST_P(AdamW, AgreesWithTheReference) {
  constexpr DType f32 = DType::f32;
  constexpr DType bf16 = DType::bf16;
  constexpr DType f16 = DType::f16;
  for (const Types& types :
       {Types{f32, f32, f32}, Types{bf16, f32, f32}, Types{bf16, bf16, f32}, Types{bf16, f32, bf16},
        Types{bf16, bf16, bf16}, Types{f32, bf16, bf16}, Types{f16, f32, f32}, Types{f16, bf16, bf16},
        Types{bf16, f32, f32, bf16}, Types{bf16, bf16, bf16, bf16}}) {
    SCOPED_TRACE(fmt::format("value {} m {} v {} gradient {}", name_of(types.value), name_of(types.m),
                             name_of(types.v), name_of(types.grad)));
    check_steps(device(), types, 1);
    check_steps(device(), types, 17);
    check_steps(device(), types, 50'001);  // more than one thread's share
    check_steps(device(), types, 0);
  }
}

// With its remainder a value of 16 bits is updated as an f32 one is: to the bit, step after step. Of f16 that
// holds down to 2^-16, below which masters are multiples of 2^-40.
TEST_P(AdamW, AValueWithRemainderIsTheMaster) {
  constexpr std::int64_t kCount = 1003;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    State whole(device(), {DType::f32}, kCount);
    State split(device(), {dtype}, kCount);
    from_doubles(to_doubles(split.value), whole.value);  // both start in 16 bits
    AdamWOptions o;
    o.learning_rate = 1e-4;  // most steps are below a unit of the value
    for (int step = 1; step <= 50; ++step) {
      o.step = step;
      fill_random(whole.grad, normal(), Rng(static_cast<std::uint64_t>(step), "grad"));
      copy_across(whole.grad, split.grad);
      whole.step(o);
      split.step(o);
    }
    const std::vector<double> joined = split.weights();
    const std::vector<double> expected = to_doubles(whole.value);
    for (std::size_t i = 0; i < joined.size(); ++i)
      EXPECT_NEAR(joined[i], expected[i],
                  dtype == DType::f16 && std::abs(expected[i]) < 0x1p-16 ? 50 * 0x1p-40 : 0.0);
    EXPECT_OK(compare_bits(split.m, whole.m, "m"));
  }
}

// The first moment of many elements with the same gradient: their mean goes where one in f32 goes, although a
// step is far below half a unit of bf16, where rounding to nearest would never move. And the same again gives
// the same bits, on parts as on the whole; another key gives others.
TEST_P(AdamW, MomentsAreRoundedByChance) {
  constexpr std::int64_t kCount = 100'000;
  AdamWOptions o;
  o.beta1 = o.beta2 = 0.999;
  const auto run = [&](State& s, std::int64_t cut) {
    from_doubles(std::vector<double>(kCount, 1.0), s.grad);
    from_doubles(std::vector<double>(kCount, 1.5), s.m);
    from_doubles(std::vector<double>(kCount, 1.5), s.v);
    for (int step = 1; step <= 100; ++step) {
      o.step = step;
      ++o.rounding_key;
      for (const auto& [begin, end] : {std::pair{std::int64_t{0}, cut}, std::pair{cut, kCount}}) {
        const auto part = [&, b = begin, e = end](const Tensor& t) { return t.slice(b, e); };
        o.first_element = static_cast<std::uint64_t>(begin);
        adamw({s.arena}, o, part(s.grad), part(s.value), part(s.remainder), part(s.m), part(s.v));
      }
    }
  };
  const Types types = {DType::bf16, DType::bf16, DType::bf16};
  State s(device(), types, kCount);
  run(s, 0);
  const double expected = 1.0 + 0.5 * std::pow(0.999, 100);
  // A unit is 2^-7 here; each element errs by a few of them, their mean by a hundredth of that.
  constexpr double kUnit = 0x1p-7;
  const double allowed = 5.0 * std::sqrt(100.0 * 0.25) * kUnit / std::sqrt(static_cast<double>(kCount));
  for (const Tensor& moment : {s.m, s.v}) {
    double mean = 0.0;
    for (const double x : to_doubles(moment)) mean += x / kCount;
    EXPECT_NEAR(mean, expected, allowed);
  }
  EXPECT_NE(to_doubles(s.m), to_doubles(s.v)) << "both moments would err together";
  o.rounding_key = 0;
  State again(device(), types, kCount);
  run(again, 12'345);
  EXPECT_OK(compare_bits(again.m, s.m, "m"));
  EXPECT_OK(compare_bits(again.v, s.v, "v"));
  EXPECT_OK(compare_bits(again.remainder, s.remainder, "remainder"));
  State other(device(), types, kCount);
  run(other, 0);
  EXPECT_NE(to_doubles(other.m), to_doubles(s.m));
}

// At step 1 the corrected moments are the gradient and its square: the step is the learning rate, whatever
// the size of the gradient.
TEST_P(AdamW, FirstStepByHand) {
  State s(device(), {}, 3);
  from_doubles(std::vector<double>{1.0, 1.0, 1.0}, s.value);
  from_doubles(std::vector<double>{1e-3, -100.0, 0.0}, s.grad);
  AdamWOptions o;
  o.learning_rate = 0.125;
  o.weight_decay = 0.0;
  o.epsilon = 1e-30;  // only so that 0 / 0 does not occur
  s.step(o);
  EXPECT_OK(compare(s.value, std::vector<double>{0.875, 1.125, 1.0}, tolerance_for(DType::f32), "value"));
}

// Decay is decoupled: it does not pass through the moments.
TEST_P(AdamW, DecayIsDecoupled) {
  State s(device(), {}, 1);
  from_doubles(std::vector<double>{2.0}, s.value);
  AdamWOptions o;
  o.learning_rate = 0.5;
  o.weight_decay = 0.25;
  s.step(o);
  EXPECT_EQ(to_doubles(s.value), std::vector<double>{1.75});
  EXPECT_EQ(to_doubles(s.m), std::vector<double>{0.0});
}

TEST_P(AdamW, ChecksArguments) {
  State s(device(), {DType::bf16}, 4);
  AdamWOptions o;
  o.step = 0;
  EXPECT_THROW(s.step(o), InvariantError);
  o.step = 1;
  const Context ctx{s.arena};
  EXPECT_THROW(adamw(ctx, o, s.grad, s.value, {}, s.m, s.v), InvariantError);
  EXPECT_THROW(adamw(ctx, o, s.grad, s.grad, s.remainder, s.m, s.v), InvariantError);
  EXPECT_THROW(adamw(ctx, o, s.grad, s.value, s.value, s.m, s.v), InvariantError);
  EXPECT_THROW(adamw(ctx, o, s.grad, s.value, s.remainder, s.remainder, s.v), InvariantError);
  State f32_value(device(), {DType::f32, DType::f32, DType::f32, DType::bf16}, 4);
  EXPECT_THROW(f32_value.step(o), InvariantError);
  EXPECT_THROW(adamw(ctx, o, s.grad.slice(0, 3), s.value, s.remainder, s.m, s.v), InvariantError);
}

}  // namespace
}  // namespace xmoe
