// The checks of op cases must find a wrong op.
#include "support/op_case.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/parallel.h"

namespace xmoe {
namespace {

// y = a^2 b, in the dtype of a; b may be f32. Flaws are added by each test.
OpCase square_times(const Shape& shape) {
  OpCase op;
  op.name = "square_times";
  op.inputs = {{.name = "a", .shape = shape}, {.name = "b", .shape = shape, .gradient_added = true}};
  op.outputs = {{.name = "y", .shape = shape}};
  op.reference = [](const Doubles& in, Doubles& out) {
    for (std::size_t i = 0; i < out[0].size(); ++i) out[0][i] = in[0][i] * in[0][i] * in[1][i];
  };
  op.forward = [](const Context&, Tensors in, Tensors out) {
    const auto a = to_doubles(in[0]);
    const auto b = to_doubles(in[1]);
    std::vector<double> y(a.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = a[i] * a[i] * b[i];
    from_doubles(y, out[0]);
  };
  op.backward = [](const Context&, Tensors in, Tensors, Tensors d_out, Tensors d_in) {
    const auto a = to_doubles(in[0]);
    const auto b = to_doubles(in[1]);
    const auto dy = to_doubles(d_out[0]);
    auto da = to_doubles(d_in[0]);
    auto db = to_doubles(d_in[1]);
    for (std::size_t i = 0; i < dy.size(); ++i) {
      da[i] = dy[i] * 2.0 * a[i] * b[i];
      db[i] += dy[i] * a[i] * a[i];
    }
    from_doubles(da, d_in[0]);
    from_doubles(db, d_in[1]);
  };
  return op;
}

const Shape kShape = {5, 7};

TEST(OpCase, AcceptsARightOp) {
  EXPECT_OK(check(square_times(kShape)));
  EXPECT_OK(check(square_times({0, 7})));
  EXPECT_OK(check(square_times({1, 1})));
  EXPECT_OK(check(square_times({30, 41})));  // gradients are sampled
}

TEST(OpCase, FindsAWrongForward) {
  OpCase op = square_times(kShape);
  op.reference = [](const Doubles& in, Doubles& out) {
    for (std::size_t i = 0; i < out[0].size(); ++i) out[0][i] = in[0][i] * in[0][i] * in[1][i] * 1.02;
  };
  EXPECT_FALSE(check_forward(op, DType::f32).ok);
  EXPECT_FALSE(check_forward(op, DType::bf16).ok);
}

TEST(OpCase, FindsAnOutputLeftUnwritten) {
  OpCase op = square_times(kShape);
  op.forward = [](const Context&, Tensors, Tensors) {};
  EXPECT_FALSE(check_forward(op, DType::f32).ok);
  EXPECT_FALSE(check_forward(op, DType::bf16).ok);
}

TEST(OpCase, FindsAWriteBehindTheEnd) {
  OpCase op = square_times(kShape);
  const auto right = op.forward;
  op.forward = [right](const Context& ctx, Tensors in, Tensors out) {
    right(ctx, in, out);
    static_cast<std::byte*>(out[0].raw())[out[0].bytes()] = std::byte{0};
  };
  const Comparison c = check_forward(op, DType::f32);
  EXPECT_FALSE(c.ok);
  EXPECT_NE(c.message.find("behind the end of y"), std::string::npos) << c.message;
}

TEST(OpCase, FindsAChangedInput) {
  OpCase op = square_times(kShape);
  const auto right = op.forward;
  op.forward = [right](const Context& ctx, Tensors in, Tensors out) {
    right(ctx, in, out);
    in[1].data<float>()[3] += 1.0F;
  };
  EXPECT_FALSE(check_forward(op, DType::f32).ok);
}

TEST(OpCase, FindsAWrongGradient) {
  for (const double factor : {-1.0, 0.0, 1.03}) {
    OpCase op = square_times(kShape);
    const auto right = op.backward;
    op.backward = [=](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
      right(ctx, in, out, d_out, d_in);
      auto da = to_doubles(d_in[0]);
      for (double& d : da) d *= factor;
      from_doubles(da, d_in[0]);
    };
    EXPECT_FALSE(check_backward(op, DType::f32).ok) << factor;
    EXPECT_FALSE(check_backward(op, DType::bf16).ok) << factor;
  }
}

TEST(OpCase, FindsAGradientThatIsNotAddedTo) {
  OpCase op = square_times(kShape);
  op.inputs[0].gradient_added = true;
  EXPECT_FALSE(check_backward(op, DType::f32).ok);
}

TEST(OpCase, FindsWhatDependsOnThreads) {
  OpCase op = square_times(kShape);
  const auto right = op.forward;
  op.forward = [right](const Context& ctx, Tensors in, Tensors out) {
    right(ctx, in, out);
    if (thread_count() == 3) out[0].data<float>()[0] = std::nextafter(out[0].data<float>()[0], 1e9F);
  };
  EXPECT_FALSE(check_threads(op, DType::f32).ok);
}

TEST(OpCase, FillsAreRepeatable) {
  Arena arena({}, MemoryTag::workspace);
  const Tensor a = arena.tensor(DType::i32, {1000});
  fill_random(a, integers(-1, 4), Rng(3, "ids"));
  const auto ids = to_doubles(a);
  EXPECT_EQ(*std::min_element(ids.begin(), ids.end()), -1.0);
  EXPECT_EQ(*std::max_element(ids.begin(), ids.end()), 3.0);
  const Tensor b = arena.tensor(DType::i32, {1000});
  fill_random(b, integers(-1, 4), Rng(3, "ids"));
  EXPECT_OK(compare_bits(b, a, "ids"));
}

}  // namespace
}  // namespace xmoe
