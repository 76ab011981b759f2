#include "ops/attention/attention.h"

#include <gtest/gtest.h>
#include <cmath>
#include <vector>

#include "device/gpu_built.h"
#include "ops/attention/attention_case.h"
#include "ops/attention/attention_gpu.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Attention);

// Two positions of one head of size 1, worked out by hand: q = (1, ln 3), k = (1, 2), v = (4, 8). The second
// row has scores (ln 3, 2 ln 3), so weights 1/4 and 3/4.
TEST_P(Attention, AgreesWithAHandWorkedCase) {
  const double ln3 = std::log(3.0);
  Arena arena(device(), MemoryTag::workspace);
  const Tensor qkv = arena.tensor(DType::f32, {2, 3});
  const Tensor out = arena.tensor(DType::f32, {2, 1});
  const Tensor lse = arena.tensor(DType::f32, {1, 1, 2});
  from_doubles(std::vector<double>{1.0, 1.0, 4.0, ln3, 2.0, 8.0}, qkv);
  attention_forward({arena}, {.batch = 1, .seq = 2, .heads = 1, .kv_heads = 1, .head_dim = 1}, qkv, out, lse);
  const Tolerance tolerance = tolerance_for(DType::f32);
  EXPECT_OK(compare(out, std::vector<double>{4.0, 7.0}, tolerance, "out"));
  EXPECT_OK(compare(lse, std::vector<double>{1.0, std::log(12.0)}, tolerance, "lse"));
}

TEST_P(Attention, AgreesWithReferenceAndFiniteDifferences) {
  for (const AttentionShape& s : {
           AttentionShape{.batch = 0, .seq = 5, .heads = 2, .kv_heads = 1, .head_dim = 8},
           AttentionShape{.batch = 2, .seq = 0, .heads = 2, .kv_heads = 1, .head_dim = 8},
           AttentionShape{.batch = 2, .seq = 1, .heads = 2, .kv_heads = 2, .head_dim = 6},
           AttentionShape{.batch = 3, .seq = 2, .heads = 4, .kv_heads = 2, .head_dim = 10},
           AttentionShape{.batch = 2, .seq = 17, .heads = 3, .kv_heads = 1, .head_dim = 14},
           AttentionShape{.batch = 1, .seq = 63, .heads = 4, .kv_heads = 4, .head_dim = 16},
           AttentionShape{.batch = 1, .seq = 65, .heads = 4, .kv_heads = 2, .head_dim = 34},
           AttentionShape{.batch = 2, .seq = 130, .heads = 2, .kv_heads = 1, .head_dim = 18},
           // Heads that the vendor's library takes, around its tiles.
           AttentionShape{.batch = 2, .seq = 2, .heads = 2, .kv_heads = 2, .head_dim = 64},
           AttentionShape{.batch = 2, .seq = 77, .heads = 6, .kv_heads = 2, .head_dim = 64},
           AttentionShape{.batch = 1, .seq = 129, .heads = 2, .kv_heads = 1, .head_dim = 128},
       }) {
    EXPECT_OK(check(attention_case(s), device()));
  }
}

// More than one block of keys, so that sums are rescaled, more than one chunk of queries, and few enough
// heads for the plan that splits them by blocks: one thread and three must agree in every bit.
TEST_P(Attention, LongSequencesAgreeHoweverTheyAreSplit) {
  const OpCase op = attention_case({.batch = 1, .seq = 643, .heads = 2, .kv_heads = 1, .head_dim = 6});
  for (const DType dtype : kComputeDtypes) {
    EXPECT_OK(check_forward(op, dtype, device()));
    EXPECT_OK(device().is_cpu() ? check_threads(op, dtype) : check_repeated(op, dtype, device()));
  }
  EXPECT_OK(check_backward(attention_case({.batch = 1, .seq = 300, .heads = 2, .kv_heads = 1, .head_dim = 4}),
                           DType::f32, device()));
}

XMOE_GPU_SUITE(GpuAttention);

// Against the CPU, which in bf16 rounds the same values in another order. Row by row: the first keys of a
// sequence, which all queries see, have gradients many times those of the last.
void check_rows_against_cpu(const OpCase& op, const AttentionShape& s, DType dtype, const Device& device) {
  OpRun on_cpu(op, dtype);
  OpRun run(op, dtype, device);
  for (OpRun* r : {&on_cpu, &run}) {
    r->forward();
    r->backward();
  }
  const auto compared = [&](const Tensor& actual, const Tensor& expected, std::int64_t terms,
                            std::string_view name) {
    Tolerance tolerance = tolerance_for(expected.dtype(), terms, dtype);
    tolerance.relative *= 2.0;  // both round
    tolerance.of_rms *= 2.0;
    tolerance.norm *= 2.0;
    EXPECT_OK(compare(actual, to_doubles(expected), tolerance, fmt::format("{} {}", op.name, name)));
  };
  compared(run.out[1], on_cpu.out[1], op.terms, "lse");
  for (std::int64_t t = 0; t < s.rows(); ++t) {
    const Tensor gradient = run.d_in[0].slice(t, t + 1);
    compared(run.out[0].slice(t, t + 1), on_cpu.out[0].slice(t, t + 1), op.terms, fmt::format("row {}", t));
    compared(gradient, on_cpu.d_in[0].slice(t, t + 1), op.backward_terms,
             fmt::format("gradient of row {}", t));
    if (testing::Test::HasFailure()) return;
  }
}

// Long enough for many tiles; in bf16 by the vendor's library, in f32 by our own kernels. Twice, bit for bit.
TEST_P(GpuAttention, AgreesWithTheCpu) {
  if (is_emulated(device())) GTEST_SKIP() << "tiles of this many sizes would take minutes to emulate";
  for (const AttentionShape& s : {
           AttentionShape{.batch = 2, .seq = 1000, .heads = 4, .kv_heads = 2, .head_dim = 64},
           AttentionShape{.batch = 1, .seq = 1537, .heads = 4, .kv_heads = 4, .head_dim = 128},
           AttentionShape{.batch = 3, .seq = 512, .heads = 8, .kv_heads = 1, .head_dim = 96},
       })
    for (const DType dtype : kComputeDtypes) {
      check_rows_against_cpu(attention_case(s), s, dtype, device());
      EXPECT_OK(check_repeated(attention_case(s), dtype, device()));
    }
}

// Gradients of scores beyond what the backward of cuDNN may hold, so that the last of the five sequences goes
// apart from the others.
TEST_P(GpuAttention, GroupsOfSequencesAgreeWithOneByOne) {
  if (is_emulated(device())) GTEST_SKIP() << "cuDNN is not emulated";
  const AttentionShape s{.batch = 5, .seq = 2048, .heads = 32, .kv_heads = 32, .head_dim = 64};
  const OpCase op = attention_case(s);
  OpRun run(op, DType::bf16, device());
  run.forward();
  run.backward();
  AttentionShape one = s;
  one.batch = 1;
  for (const std::int64_t b : {0, 4}) {
    const std::int64_t begin = b * s.seq;
    const std::int64_t end = begin + s.seq;
    Arena arena(device(), MemoryTag::gradients);
    const Tensor dqkv = arena.tensor(DType::bf16, {s.seq, s.qkv_width()});
    attention_backward(run.context(), one, run.d_out[0].slice(begin, end), run.in[0].slice(begin, end),
                       run.out[0].slice(begin, end), run.out[1].slice(b, b + 1), dqkv);
    EXPECT_OK(
        compare(run.d_in[0].slice(begin, end), to_doubles(dqkv), tolerance_for(DType::bf16, s.seq), "dqkv"));
  }
}

// The plain path where cuDNN would be chosen too: with all scores held at once, those of some heads, and
// those of a block of queries.
TEST_P(GpuAttention, PlainPathAgreesHoweverMuchIsHeld) {
  AttentionShape s{.batch = 3, .seq = 300, .heads = 4, .kv_heads = 2, .head_dim = 40};
  if (is_emulated(device())) s = {.batch = 1, .seq = 200, .heads = 4, .kv_heads = 2, .head_dim = 6};
  const std::int64_t unit = 2 * s.seq * s.seq * std::int64_t{2 * sizeof(float)};  // backward's, of two heads
  for (const std::int64_t bytes : {100 * unit, 4 * unit, std::int64_t{1}}) {
    OpCase op = attention_case(s);
    op.forward = [s, bytes](const Context& ctx, Tensors in, Tensors out) {
      if (ctx.device().is_cpu()) return attention_forward(ctx, s, in[0], out[0], out[1]);
      if constexpr (kGpuBuilt) gpu::plain::attention_forward(ctx, s, in[0], out[0], out[1], bytes);
    };
    op.backward = [s, bytes](const Context& ctx, Tensors in, Tensors out, Tensors d_out, Tensors d_in) {
      if (ctx.device().is_cpu()) return attention_backward(ctx, s, d_out[0], in[0], out[0], out[1], d_in[0]);
      if constexpr (kGpuBuilt)
        gpu::plain::attention_backward(ctx, s, d_out[0], in[0], out[0], out[1], d_in[0], bytes);
    };
    for (const DType dtype : kComputeDtypes) {
      check_rows_against_cpu(op, s, dtype, device());
      EXPECT_OK(check_repeated(op, dtype, device()));
    }
  }
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  OpCase op = attention_case({.batch = 1, .seq = 40, .heads = 1, .kv_heads = 1, .head_dim = 4});
  op.inputs[0].fill = normal(30.0);
  EXPECT_OK(check_forward(op, DType::f32, device()));
}

TEST_P(Attention, NothingLaterIsRead) {
  const AttentionShape s{.batch = 1, .seq = 140, .heads = 2, .kv_heads = 1, .head_dim = 8};
  const OpCase op = attention_case(s);
  for (const DType dtype : kComputeDtypes) {
    OpRun run(op, dtype, device());
    run.forward();
    const std::vector<double> before = to_doubles(run.out[0].slice(0, 131));
    const Tensor later = run.in[0].slice(131, s.seq);
    // Near the end of the type, so that scores become infinite or at least huge.
    const double huge = dtype == DType::f16 ? 6e4 : 3e38;
    from_doubles(std::vector<double>(static_cast<std::size_t>(later.numel()), huge), later);
    run.forward();
    EXPECT_EQ(to_doubles(run.out[0].slice(0, 131)), before);
  }
}

TEST_P(Attention, AllocatesNothingAfterTheFirstCall) {
  const OpCase op = attention_case({.batch = 2, .seq = 70, .heads = 4, .kv_heads = 2, .head_dim = 16});
  OpRun run(op, DType::bf16, device());
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
void check_decode(const AttentionShape& s, const Device& device) {
  for (const DType dtype : kComputeDtypes) {
    const OpCase op = attention_case(s);
    OpRun run(op, dtype, device);
    const std::vector<double> qkv = to_doubles(run.in[0]);
    std::vector<double> expected(static_cast<std::size_t>(s.rows() * s.heads * s.head_dim));
    std::vector<double> lse(static_cast<std::size_t>(s.batch * s.heads * s.seq));
    attention_reference(s, qkv, expected, lse);

    // A cache with room for more: rows past the length hold NaN and must not be read.
    AttentionShape cache_shape = s;
    cache_shape.seq += 13;
    Arena arena(device, MemoryTag::saved);
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

TEST_P(Attention, DecodeEqualsTheLastRow) {
  check_decode({.batch = 2, .seq = 37, .heads = 6, .kv_heads = 2, .head_dim = 10}, device());
  check_decode({.batch = 1, .seq = 1, .heads = 1, .kv_heads = 1, .head_dim = 3}, device());
  // More keys and columns than a GPU gives a block.
  check_decode({.batch = 1, .seq = 530, .heads = 2, .kv_heads = 1, .head_dim = 300}, device());
}

TEST_P(Attention, RefusesWhatDoesNotFit) {
  const OpCase op = attention_case({.batch = 1, .seq = 4, .heads = 2, .kv_heads = 1, .head_dim = 4});
  OpRun run(op, DType::f32, device());
  const AttentionShape uneven{.batch = 1, .seq = 4, .heads = 3, .kv_heads = 2, .head_dim = 4};
  EXPECT_THROW(attention_forward(run.context(), uneven, run.in[0], run.out[0], run.out[1]), InvariantError);
  const AttentionShape longer{.batch = 1, .seq = 5, .heads = 2, .kv_heads = 1, .head_dim = 4};
  EXPECT_THROW(attention_forward(run.context(), longer, run.in[0], run.out[0], run.out[1]), InvariantError);
}

}  // namespace
}  // namespace xmoe
