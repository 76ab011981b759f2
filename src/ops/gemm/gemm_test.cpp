#include "ops/gemm/gemm.h"

#include <gtest/gtest.h>

#include <array>

#include "ops/gemm/gemm_case.h"
#include "ops/gemm/gemm_tile.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Gemm);
XMOE_GPU_SUITE(GemmOnGpu);

std::vector<GemmOptions> all_options() {
  std::vector<GemmOptions> all;
  for (const Transpose a : {Transpose::no, Transpose::yes})
    for (const Transpose b : {Transpose::no, Transpose::yes})
      for (const bool accumulate : {false, true}) all.push_back({a, b, accumulate});
  return all;
}

void check_sizes(const std::vector<GemmSize>& sizes, const Device& device) {
  for (const GemmSize& size : sizes)
    for (const GemmOptions& options : all_options()) {
      const OpCase same = gemm_case(size, options, ElementKind::compute);
      const OpCase wider = gemm_case(size, options, ElementKind::f32);
      for (const DType dtype : kComputeDtypes) EXPECT_OK(check_forward(same, dtype, device));
      for (const DType dtype : {DType::bf16, DType::f16}) EXPECT_OK(check_forward(wider, dtype, device));
    }
}

TEST_P(Gemm, AgreesWithTheReference) {
  check_sizes({{1, 1, 1}, {3, 5, 7}, {1, 33, 65}, {65, 1, 17}, {64, 64, 64}, {67, 129, 35}}, device());
}

TEST_P(Gemm, ManyTasks) {
  if (is_emulated(device())) GTEST_SKIP() << "an emulated GPU's products are the CPU's";
  check_sizes({{530, 1100, 19}, {384, 257, 520}}, device());
}

TEST_P(Gemm, SizesOfZero) { check_sizes({{0, 4, 3}, {4, 0, 3}, {4, 3, 0}, {0, 0, 0}}, device()); }

TEST_P(Gemm, ByHand) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor a = arena.tensor(DType::f32, {2, 3});
  const Tensor b = arena.tensor(DType::f32, {3, 2});
  const Tensor c = arena.tensor(DType::f32, {2, 2});
  from_doubles(std::vector<double>{1, 2, 3, 4, 5, 6}, a);
  from_doubles(std::vector<double>{1, 0, 0, 1, 10, 100}, b);
  gemm(ctx, a, b, c, {});
  EXPECT_EQ(to_doubles(c), (std::vector<double>{31, 302, 64, 605}));
  gemm(ctx, a, b, c, {.accumulate = true});
  EXPECT_EQ(to_doubles(c), (std::vector<double>{62, 604, 128, 1210}));
}

// Rows of a larger matrix, as experts get them: they start where their elements allow and no wider.
TEST_P(Gemm, OperandsThatStartAnywhere) {
  constexpr GemmSize kSize = {40, 31, 21};
  for (const DType dtype : kComputeDtypes) {
    const OpCase op = gemm_case(kSize, {}, ElementKind::compute);
    OpRun run(op, dtype, device());
    Arena arena(device(), MemoryTag::workspace);
    const auto shifted = [&](const Tensor& t) {
      const Tensor wider = arena.tensor(dtype, {t.numel() + 1});
      const Tensor inner(static_cast<std::byte*>(wider.raw()) + size_of(dtype), dtype, t.shape(), device());
      device_copy(device(), t.raw(), device(), inner.raw(), t.bytes());
      return inner;
    };
    const Tensor c = shifted(run.in[2]);
    gemm(run.context(), shifted(run.in[0]), shifted(run.in[1]), c, {});
    Doubles expected(1, std::vector<double>(static_cast<std::size_t>(c.numel()), 0.0));
    op.reference({to_doubles(run.in[0]), to_doubles(run.in[1]), {}}, expected);
    EXPECT_OK(compare(c, expected[0], tolerance_for(dtype, kSize.k), "shifted"));
  }
}

TEST_P(Gemm, ChecksArguments) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor a = arena.zeros(DType::f32, {2, 3});
  const Tensor b = arena.zeros(DType::f32, {3, 4});
  const Tensor c = arena.zeros(DType::f32, {2, 4});
  EXPECT_THROW(gemm(ctx, a, b, c, {.b = Transpose::yes}), InvariantError);
  EXPECT_THROW(gemm(ctx, b, a, c, {}), InvariantError);
  EXPECT_THROW(gemm(ctx, a, arena.zeros(DType::bf16, {3, 4}), c, {}), InvariantError);
  EXPECT_THROW(gemm(ctx, a, b, arena.zeros(DType::bf16, {2, 4}), {}), InvariantError);
}

// Few elements of long sums, which the library cuts into parts: the parts' order must not vary, and in bf16
// they must not be rounded before they are added.
TEST_P(GemmOnGpu, LongSumsAreEqualBitForBit) {
  if (is_emulated(device())) GTEST_SKIP() << "an emulated GPU's products are the CPU's";
  for (const GemmSize& size : std::vector<GemmSize>{{64, 64, 8192}, {33, 40, 5001}})
    for (const GemmOptions& options : all_options()) {
      const OpCase op = gemm_case(size, options, ElementKind::compute);
      for (const DType dtype : kComputeDtypes) {
        EXPECT_OK(check_forward(op, dtype, device()));
        EXPECT_OK(check_repeated(op, dtype, device()));
      }
      EXPECT_OK(check_repeated(gemm_case(size, options, ElementKind::f32), DType::bf16, device()));
    }
}

// TF32 keeps 11 bits of each factor: 1 + 2^-12 would become 1.
TEST_P(GemmOnGpu, FactorsInF32AreNotRounded) {
  if (is_emulated(device())) GTEST_SKIP() << "an emulated GPU's products are the CPU's";
  OpCase op = gemm_case({128, 128, 128}, {}, ElementKind::compute);
  op.inputs[0].fill = values({1.0 + 0x1p-12});
  op.inputs[1].fill = values({1.0});
  OpRun run(op, DType::f32, device());
  run.forward();
  const std::vector<double> exact(128 * 128, 128.0 * (1.0 + 0x1p-12));
  EXPECT_EQ(to_doubles(run.out[0]), exact);
}

// More shapes than plans that are kept.
TEST_P(GemmOnGpu, ManyShapes) {
  if (is_emulated(device())) GTEST_SKIP() << "an emulated GPU's products are the CPU's";
  constexpr std::int64_t kRows = 9000;
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor a = arena.tensor(DType::f32, {kRows, 1});
  const Tensor b = arena.tensor(DType::f32, {1, 1});
  const Tensor c = arena.tensor(DType::f32, {kRows, 1});
  fill_random(a, normal(), Rng(1, "a"));
  from_doubles(std::vector<double>{1.0}, b);
  for (std::int64_t rows = kRows; rows > 0; --rows)
    gemm(ctx, a.slice(0, rows), b, c.slice(0, rows), {.accumulate = rows == 1});
  auto expected = to_doubles(a);
  expected[0] *= 2.0;
  EXPECT_EQ(to_doubles(c), expected);
}

// A matrix inside a wider one: `padding` columns behind every row belong to someone else.
struct Padded {
  Padded(Arena& arena, DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t padding,
         std::string_view name)
      : storage(arena.tensor(dtype, {rows, columns + padding})), width(columns) {
    fill_random(storage, normal(), Rng(1, name));
  }
  std::int64_t ld() const { return storage.dim(1); }
  double at(const std::vector<double>& all, std::int64_t i, std::int64_t j) const {
    return all[static_cast<std::size_t>(i * ld() + j)];
  }

  Tensor storage;
  std::int64_t width;
};

using TileFunction = void (*)(const GemmTile&);

void check_tile(TileFunction multiply, const GemmSize& s, const GemmOptions& options, DType input,
                DType output) {
  const bool ta = options.a == Transpose::yes;
  const bool tb = options.b == Transpose::yes;
  Arena arena({}, MemoryTag::workspace);
  const Padded a(arena, input, ta ? s.k : s.m, ta ? s.m : s.k, 3, "a");
  const Padded b(arena, input, tb ? s.n : s.k, tb ? s.k : s.n, 5, "b");
  const Padded c(arena, output, s.m, s.n, 7, "c");
  const auto av = to_doubles(a.storage);
  const auto bv = to_doubles(b.storage);
  const auto before = to_doubles(c.storage);
  GemmTile tile;
  tile.m = s.m;
  tile.n = s.n;
  tile.k = s.k;
  tile.a = a.storage.raw();
  tile.lda = a.ld();
  tile.b = b.storage.raw();
  tile.ldb = b.ld();
  tile.c = c.storage.raw();
  tile.ldc = c.ld();
  tile.input = input;
  tile.output = output;
  tile.options = options;
  multiply(tile);
  const auto after = to_doubles(c.storage);
  std::vector<double> actual;
  std::vector<double> expected;
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < s.n; ++j) {
      double sum = options.accumulate ? c.at(before, i, j) : 0.0;
      for (std::int64_t p = 0; p < s.k; ++p)
        sum += (ta ? a.at(av, p, i) : a.at(av, i, p)) * (tb ? b.at(bv, j, p) : b.at(bv, p, j));
      actual.push_back(c.at(after, i, j));
      expected.push_back(sum);
    }
    for (std::int64_t j = s.n; j < c.ld(); ++j)
      EXPECT_EQ(c.at(after, i, j), c.at(before, i, j)) << "wrote behind row " << i;
  }
  EXPECT_OK(compare(actual, expected, tolerance_for(output, s.k), "tile"));
}

void check_tiles(TileFunction multiply, const std::vector<GemmSize>& sizes, bool with_f32) {
  for (const GemmSize& size : sizes)
    for (const GemmOptions& options : all_options()) {
      if (with_f32) check_tile(multiply, size, options, DType::f32, DType::f32);
      for (const DType dtype : {DType::bf16, DType::f16}) {
        check_tile(multiply, size, options, dtype, dtype);
        check_tile(multiply, size, options, dtype, DType::f32);
      }
    }
}

TEST(GemmTile, LeadingDimensionsBeyondTheWidth) {
  check_tiles(&gemm_tile, {{1, 1, 1}, {5, 3, 9}, {33, 70, 41}, {64, 48, 16}}, true);
}

TEST(GemmTile, SizesOfZero) { check_tiles(&gemm_tile, {{0, 2, 2}, {2, 0, 2}, {3, 2, 0}}, true); }

// What CPUs without bf16 products run; here on any.
TEST(GemmTile, WidenedProducts) {
  check_tiles(&gemm_tile_widened, {{1, 1, 1}, {5, 3, 9}, {33, 70, 41}}, false);
}

TEST(GemmTile, TilesCoverTheWhole) {
  constexpr std::int64_t kSize = 50;
  const OpCase op = gemm_case({kSize, kSize, kSize}, {}, ElementKind::compute);
  OpRun run(op, DType::f32);
  run.forward();
  const auto expected = to_doubles(run.out[0]);
  GemmTile whole;
  whole.m = whole.n = whole.k = kSize;
  whole.a = run.in[0].raw();
  whole.b = run.in[1].raw();
  whole.c = run.out[0].raw();
  whole.lda = whole.ldb = whole.ldc = kSize;
  for (const std::int64_t rows : {7, 50, 64})
    for (const std::int64_t columns : {1, 33, 100}) {
      fill_random(run.out[0], values({-1.0}), Rng(1, "c"));
      gemm_tiles(whole, rows, columns);
      EXPECT_OK(compare(run.out[0], expected, tolerance_for(DType::f32, kSize), "tiles"));
    }
}

// Odd sizes: the last group is not full in either direction.
TEST(GemmTile, WhereItIsCutChangesNoBit) {
  constexpr GemmSize kSize{301, 251, 70};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const OpCase op = gemm_case(kSize, {}, ElementKind::compute);
    OpRun run(op, dtype);
    GemmTile whole;
    whole.m = kSize.m;
    whole.n = kSize.n;
    whole.k = kSize.k;
    whole.a = run.in[0].raw();
    whole.b = run.in[1].raw();
    whole.c = run.out[0].raw();
    whole.lda = kSize.k;
    whole.ldb = whole.ldc = kSize.n;
    whole.input = whole.output = dtype;
    gemm_tile(whole);
    const auto expected = to_doubles(run.out[0]);
    for (const std::int64_t rows : {1, 2, 5})
      for (const std::int64_t columns : {1, 4, 6}) {
        fill_random(run.out[0], values({-1.0}), Rng(1, "c"));
        gemm_tiles(whole, rows * kGroup, columns * kGroup);
        EXPECT_EQ(to_doubles(run.out[0]), expected)
            << name_of(dtype) << " " << rows << " x " << columns << " groups";
      }
  }
}

}  // namespace
}  // namespace xmoe
