#include "ops/attention/attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <limits>
#include <vector>

#include "ops/attention/attention_case.h"

namespace xmoe {
namespace {

// Two positions of one head of size 1, worked out by hand: q = (1, ln 3), k = (1, 2), v = (4, 8). The second
// row has scores (ln 3, 2 ln 3), so weights 1/4 and 3/4.
TEST(Attention, AgreesWithAHandWorkedCase) {
  const float ln3 = std::log(3.0F);
  std::vector<float> qkv = {1.0F, 1.0F, 4.0F, ln3, 2.0F, 8.0F};
  std::vector<float> out(2);
  std::vector<float> lse(2);
  Arena workspace({}, MemoryTag::workspace);
  const Context ctx{workspace};
  attention_forward(ctx, {.batch = 1, .seq = 2, .heads = 1, .kv_heads = 1, .head_dim = 1},
                    {qkv.data(), DType::f32, {2, 3}}, {out.data(), DType::f32, {2, 1}},
                    {lse.data(), DType::f32, {1, 1, 2}});
  EXPECT_FLOAT_EQ(out[0], 4.0F);
  EXPECT_FLOAT_EQ(out[1], 7.0F);
  EXPECT_FLOAT_EQ(lse[0], 1.0F);
  EXPECT_FLOAT_EQ(lse[1], std::log(12.0F));
}

TEST(Attention, AgreesWithReferenceAndFiniteDifferences) {
  for (const AttentionShape& s : {
           AttentionShape{.batch = 0, .seq = 5, .heads = 2, .kv_heads = 1, .head_dim = 8},
           AttentionShape{.batch = 2, .seq = 0, .heads = 2, .kv_heads = 1, .head_dim = 8},
           AttentionShape{.batch = 2, .seq = 1, .heads = 2, .kv_heads = 2, .head_dim = 6},
           AttentionShape{.batch = 3, .seq = 2, .heads = 4, .kv_heads = 2, .head_dim = 10},
           AttentionShape{.batch = 2, .seq = 17, .heads = 3, .kv_heads = 1, .head_dim = 14},
           AttentionShape{.batch = 1, .seq = 63, .heads = 4, .kv_heads = 4, .head_dim = 16},
           AttentionShape{.batch = 1, .seq = 65, .heads = 4, .kv_heads = 2, .head_dim = 34},
           AttentionShape{.batch = 2, .seq = 130, .heads = 2, .kv_heads = 1, .head_dim = 18},
       }) {
    EXPECT_OK(check(attention_case(s)));
  }
}

// More than one block of keys, so that sums are rescaled, more than one chunk of queries, and few enough
// heads for the plan that splits them by blocks: one thread and three must agree in every bit.
TEST(Attention, LongSequencesAgreeHoweverTheyAreSplit) {
  const OpCase op = attention_case({.batch = 1, .seq = 643, .heads = 2, .kv_heads = 1, .head_dim = 6});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_OK(check_forward(op, dtype));
    EXPECT_OK(check_threads(op, dtype));
  }
  EXPECT_OK(check_backward(attention_case({.batch = 1, .seq = 300, .heads = 2, .kv_heads = 1, .head_dim = 4}),
                           DType::f32));
}

TEST(Attention, LargeScoresDoNotOverflow) {
  OpCase op = attention_case({.batch = 1, .seq = 40, .heads = 1, .kv_heads = 1, .head_dim = 4});
  op.inputs[0].fill = normal(30.0);
  EXPECT_OK(check_forward(op, DType::f32));
}

TEST(Attention, NothingLaterIsRead) {
  const AttentionShape s{.batch = 1, .seq = 140, .heads = 2, .kv_heads = 1, .head_dim = 8};
  const OpCase op = attention_case(s);
  OpRun run(op, DType::f32);
  run.forward();
  const std::vector<double> before = to_doubles(run.out[0].slice(0, 131));
  for (std::int64_t i = 131 * s.qkv_width(); i < run.in[0].numel(); ++i)
    run.in[0].data<float>()[i] = std::numeric_limits<float>::max();
  run.forward();
  EXPECT_EQ(to_doubles(run.out[0].slice(0, 131)), before);
}

TEST(Attention, AllocatesNothingAfterTheFirstCall) {
  const OpCase op = attention_case({.batch = 2, .seq = 70, .heads = 4, .kv_heads = 2, .head_dim = 16});
  OpRun run(op, DType::bf16);
  run.forward();
  run.backward();
  run.forward();  // what the first calls needed is now one piece
  const Arena& workspace = run.context().workspace;
  const std::int64_t allocations = workspace.device_allocations();
  run.forward();
  run.backward();
  EXPECT_EQ(workspace.device_allocations(), allocations);
  EXPECT_EQ(workspace.in_use(), 0U);
}

// The last row of a causal forward over the same keys is what decoding must give.
TEST(Attention, DecodeEqualsTheLastRow) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const AttentionShape s{.batch = 2, .seq = 37, .heads = 6, .kv_heads = 2, .head_dim = 10};
    const OpCase op = attention_case(s);
    OpRun run(op, dtype);
    const std::vector<double> qkv = to_doubles(run.in[0]);
    std::vector<double> expected(static_cast<std::size_t>(s.rows() * s.heads * s.head_dim));
    std::vector<double> lse(static_cast<std::size_t>(s.batch * s.heads * s.seq));
    attention_reference(s, qkv, expected, lse);

    // A cache with room for more: rows past the length hold NaN and must not be read.
    AttentionShape cache_shape = s;
    cache_shape.seq = 50;
    Arena arena({}, MemoryTag::saved);
    const std::int64_t kv_width = s.kv_heads * s.head_dim;
    const Tensor q = arena.tensor(dtype, {s.batch, s.heads * s.head_dim});
    const Tensor keys = arena.tensor(dtype, {s.batch, cache_shape.seq, kv_width});
    const Tensor values = arena.tensor(dtype, {s.batch, cache_shape.seq, kv_width});
    const Tensor out = arena.tensor(dtype, q.shape());
    std::vector<double> q_rows;
    std::vector<double> last_rows;
    std::vector<double> key_rows(static_cast<std::size_t>(keys.numel()), std::nan(""));
    std::vector<double> value_rows = key_rows;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      const std::int64_t last = (b + 1) * s.seq - 1;
      for (std::int64_t c = 0; c < s.heads * s.head_dim; ++c) {
        q_rows.push_back(qkv[static_cast<std::size_t>(last * s.qkv_width() + c)]);
        last_rows.push_back(expected[static_cast<std::size_t>(last * s.heads * s.head_dim + c)]);
      }
      for (std::int64_t t = 0; t < s.seq; ++t) {
        for (std::int64_t c = 0; c < kv_width; ++c) {
          const std::int64_t from = (b * s.seq + t) * s.qkv_width() + s.heads * s.head_dim + c;
          const auto to = static_cast<std::size_t>((b * cache_shape.seq + t) * kv_width + c);
          key_rows[to] = qkv[static_cast<std::size_t>(from)];
          value_rows[to] = qkv[static_cast<std::size_t>(from + kv_width)];
        }
      }
    }
    from_doubles(q_rows, q);
    from_doubles(key_rows, keys);
    from_doubles(value_rows, values);
    attention_decode(run.context(), cache_shape, s.seq, q, keys, values, out);
    EXPECT_OK(compare(out, last_rows, tolerance_for(dtype, s.seq + s.head_dim), "decoded"));
  }
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const OpCase op = attention_case({.batch = 1, .seq = 4, .heads = 2, .kv_heads = 1, .head_dim = 4});
  OpRun run(op, DType::f32);
  const AttentionShape uneven{.batch = 1, .seq = 4, .heads = 3, .kv_heads = 2, .head_dim = 4};
  EXPECT_THROW(attention_forward(run.context(), uneven, run.in[0], run.out[0], run.out[1]), InvariantError);
  const AttentionShape longer{.batch = 1, .seq = 5, .heads = 2, .kv_heads = 1, .head_dim = 4};
  EXPECT_THROW(attention_forward(run.context(), longer, run.in[0], run.out[0], run.out[1]), InvariantError);
}

}  // namespace
}  // namespace xmoe
