// A task is a block of rows of one expert and runs on one thread from gather to scatter, so that what lies
// between the products stays in the cache of its core. Weight gradients need all rows of an expert: a second
// pass whose tasks are slices of one weight matrix of one expert, each summing over row blocks in order.
// All are cut at multiples of kGroup, so that results do not depend on the number of threads.
#include "ops/grouped_mlp/grouped_mlp_cpu.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/parallel.h"
#include "ops/gemm/gemm_tile.h"
#include "ops/grouped_mlp/activation_rows.h"

namespace xmoe::cpu {

namespace {

// Rows of a block: the most amortise the packing of a weight matrix and fit in the L2 cache; with fewer than
// the least a matrix product is bound by reading the weights.
constexpr std::int64_t kMaxBlockRows = 5 * kGroup;
constexpr std::int64_t kMinBlockRows = kGroup;
constexpr std::int64_t kTasksPerThread = 4;  // enough to even out experts of different load
constexpr std::int64_t kMinSliceRows =
    64;  // rows of a weight-gradient slice; fewer would gather the inputs too often

struct Block {
  std::int64_t expert;
  std::int64_t begin;  // first row, counted over all experts
  std::int64_t rows;
};

std::vector<Block> row_blocks(const ExpertRows& rows) {
  const std::int64_t target = group_boundary(
      std::max(rows.total() / (kTasksPerThread * thread_count()), kMinBlockRows), kMaxBlockRows);
  std::vector<Block> blocks;
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < rows.per_expert.size(); ++e) {
    const std::int64_t count = rows.per_expert[e];
    const std::int64_t pieces = (count + target - 1) / target;
    const std::int64_t piece = pieces == 0 ? 1 : group_boundary((count + pieces - 1) / pieces, target);
    for (std::int64_t from = 0; from < count; from += piece)
      blocks.push_back({static_cast<std::int64_t>(e), begin + from, std::min(piece, count - from)});
    begin += count;
  }
  return blocks;
}

// Rows of a pair by index; an undefined index means "in order, all local".
template <typename T>
class PairRows {
 public:
  PairRows(const RowPair& pair, const Tensor& index)
      : local_(pair.local.data<T>()),
        remote_(pair.remote.defined() ? pair.remote.data<T>() : nullptr),
        index_(index.defined() ? index.data<std::int32_t>() : nullptr),
        local_rows_(pair.local.dim(0)),
        width_(pair.local.dim(1)) {}

  bool in_order() const { return index_ == nullptr; }
  T* row(std::int64_t r) const {
    const std::int64_t i = in_order() ? r : index_[r];
    return i < local_rows_ ? local_ + i * width_ : remote_ + (i - local_rows_) * width_;
  }
  // Rows [begin, begin + count) as one matrix: as they lie where they follow each other, else gathered into
  // `scratch`.
  const T* gather(std::int64_t begin, std::int64_t count, T* scratch) const {
    if (consecutive(begin, count)) return row(begin);
    for (std::int64_t r = 0; r < count; ++r) std::memcpy(scratch + r * width_, row(begin + r), row_bytes());
    return scratch;
  }
  // Where a product may write rows [begin, begin + count): in place, or into `scratch`, to be followed by
  // scatter().
  T* target(std::int64_t begin, std::int64_t count, T* scratch) const {
    return consecutive(begin, count) ? row(begin) : scratch;
  }
  void scatter(std::int64_t begin, std::int64_t count, const T* written) const {
    if (written == row(begin)) return;
    for (std::int64_t r = 0; r < count; ++r) std::memcpy(row(begin + r), written + r * width_, row_bytes());
  }

 private:
  bool consecutive(std::int64_t begin, std::int64_t count) const {
    if (in_order()) return true;
    const std::int32_t first = index_[begin];
    for (std::int64_t r = 1; r < count; ++r)
      if (index_[begin + r] != first + r) return false;
    // Not from one matrix into the other.
    return first >= local_rows_ || first + count <= local_rows_;
  }
  std::size_t row_bytes() const { return static_cast<std::size_t>(width_) * sizeof(T); }

  T* local_;
  T* remote_;
  const std::int32_t* index_;
  std::int64_t local_rows_;
  std::int64_t width_;
};

// Per-thread scratch from the workspace: `rows` rows of `width` elements for each thread.
template <typename T>
class Scratch {
 public:
  Scratch(Arena& arena, std::int64_t rows, std::int64_t width)
      : stride_(rows * width),
        data_(arena.tensor(dtype_of<T>::value, {static_cast<std::int64_t>(thread_count()), stride_})
                  .template data<T>()) {}
  T* of(int thread) const { return data_ + thread * stride_; }

 private:
  std::int64_t stride_;
  T* data_;
};

// C [m, n] = op(A) B, row-major without gaps unless a leading dimension is given.
template <typename T>
GemmTile product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const T* b, Transpose tb,
                 void* c, DType output) {
  GemmTile t;
  t.m = m;
  t.n = n;
  t.k = k;
  t.a = a;
  t.lda = k;
  t.b = b;
  t.ldb = tb == Transpose::yes ? k : n;
  t.c = c;
  t.ldc = n;
  t.input = dtype_of<T>::value;
  t.output = output;
  t.options.b = tb;
  return t;
}

std::int64_t largest_block(const std::vector<Block>& blocks) {
  std::int64_t rows = 0;
  for (const auto& b : blocks) rows = std::max(rows, b.rows);
  return rows;
}

// dW[e] += or = left^T right over the rows of every expert that has some; left is [R, m] in order, right is
// gathered [R, n].
template <typename T>
struct WeightGradient {
  const T* left;
  std::int64_t m;
  PairRows<T> right;
  std::int64_t n;
  Tensor dw;        // [E, m, n], or [E, n, m] when transposed; f32 or of T
  bool transposed;  // dW^T is stored: dW += right^T left
};

struct Slice {
  int gradient;  // which WeightGradient
  std::int64_t expert, first_row, rows;
  std::int64_t begin, end;  // of the leading dimension of dW
};

template <typename T>
std::vector<Slice> weight_slices(const ExpertRows& rows, std::span<const WeightGradient<T>> gradients) {
  // Each thread has f32 sums of a slice beside gradients of 16 bits: slices are small then.
  const bool narrow = gradients.front().dw.dtype() != DType::f32;
  const std::int64_t wanted = kTasksPerThread * thread_count();
  const std::int64_t total = std::max<std::int64_t>(1, rows.total());
  std::vector<Slice> slices;
  std::int64_t first = 0;
  for (std::size_t e = 0; e < rows.per_expert.size(); ++e) {
    const std::int64_t count = rows.per_expert[e];
    for (std::size_t g = 0; count > 0 && g < gradients.size(); ++g) {
      const std::int64_t leading = gradients[g].transposed ? gradients[g].n : gradients[g].m;
      const std::int64_t most = std::max<std::int64_t>(1, leading / kMinSliceRows);
      const std::int64_t pieces =
          narrow ? most : std::clamp<std::int64_t>((count * wanted + total - 1) / total, 1, most);
      for (std::int64_t p = 0; p < pieces; ++p)
        slices.push_back({static_cast<int>(g), static_cast<std::int64_t>(e), first, count,
                          group_boundary(leading * p / pieces, leading),
                          group_boundary(leading * (p + 1) / pieces, leading)});
    }
    first += count;
  }
  // The longest first, so that the last task to finish is a short one.
  std::stable_sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) {
    return a.rows * (a.end - a.begin) > b.rows * (b.end - b.begin);
  });
  return slices;
}

// `sums`: where f32 sums of a slice are formed whose dW is not f32.
template <typename T>
void sum_weight_gradient(const WeightGradient<T>& g, const Slice& s, Accumulation accumulation, T* scratch,
                         float* sums) {
  constexpr std::int64_t kRows = kMaxBlockRows;
  const std::int64_t columns = g.transposed ? g.m : g.n;
  const std::int64_t offset = s.expert * g.m * g.n + s.begin * columns;
  const bool direct = g.dw.dtype() == DType::f32;
  for (std::int64_t r = s.first_row; r < s.first_row + s.rows; r += kRows) {
    const std::int64_t count = std::min(kRows, s.first_row + s.rows - r);
    const T* left = g.left + r * g.m;
    const T* right = g.right.gather(r, count, scratch);
    GemmTile t;
    t.m = s.end - s.begin;
    t.n = columns;
    t.k = count;
    t.a = (g.transposed ? right : left) + s.begin;
    t.lda = g.transposed ? g.n : g.m;
    t.b = g.transposed ? left : right;
    t.ldb = g.transposed ? g.m : g.n;
    t.c = direct ? g.dw.template data<float>() + offset : sums;
    t.ldc = t.n;
    t.input = dtype_of<T>::value;
    t.output = DType::f32;
    t.options.a = Transpose::yes;
    t.options.accumulate = (direct && accumulation == Accumulation::add) || r > s.first_row;
    gemm_tile(t);
  }
  if (direct) return;
  T* const dw = g.dw.template data<T>() + offset;
  for (std::int64_t i = 0; i < (s.end - s.begin) * columns; ++i)
    dw[i] = T(accumulation == Accumulation::add ? static_cast<float>(dw[i]) + sums[i] : sums[i]);
}

// Elements of dW that the largest slice has.
template <typename T>
std::int64_t largest_slice(const std::vector<Slice>& slices, std::span<const WeightGradient<T>> gradients) {
  std::int64_t most = 0;
  for (const Slice& s : slices) {
    const WeightGradient<T>& g = gradients[static_cast<std::size_t>(s.gradient)];
    most = std::max(most, (s.end - s.begin) * (g.transposed ? g.m : g.n));
  }
  return most;
}

template <typename T>
void forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
             const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y) {
  const std::int64_t hidden = w1.dim(2);
  const std::int64_t width = w1.dim(1);
  const std::int64_t ffn = w2.dim(2);
  const auto blocks = row_blocks(rows);
  const std::int64_t most = largest_block(blocks);
  const ArenaScope scope(ctx.workspace);
  const Scratch<T> row_scratch(ctx.workspace, most, hidden);
  const Scratch<T> a_scratch(ctx.workspace, most, ffn);
  const PairRows<T> input(x, rows.source);
  std::optional<PairRows<T>> output;
  if (y.local.defined()) output.emplace(y, rows.destination);
  const float* weights = rows.weights.defined() ? rows.weights.data<float>() : nullptr;
  parallel_tasks(static_cast<std::int64_t>(blocks.size()), [&](std::int64_t task, int thread) {
    const Block& b = blocks[static_cast<std::size_t>(task)];
    T* scratch = row_scratch.of(thread);
    T* a = a_scratch.of(thread);
    T* hb = h.data<T>() + b.begin * width;
    const T* xb = input.gather(b.begin, b.rows, scratch);
    gemm_tile(product(b.rows, width, hidden, xb, w1.data<T>() + b.expert * width * hidden, Transpose::yes, hb,
                      dtype_of<T>::value));
    if (!output) return;
    for (std::int64_t r = 0; r < b.rows; ++r)
      activate_row(activation, ffn, hb + r * width, weights == nullptr ? 1.0F : weights[b.begin + r],
                   a + r * ffn);
    T* yb = output->target(b.begin, b.rows, scratch);
    gemm_tile(product(b.rows, hidden, ffn, a, w2.data<T>() + b.expert * hidden * ffn, Transpose::yes, yb,
                      dtype_of<T>::value));
    output->scatter(b.begin, b.rows, yb);
  });
}

template <typename T>
void backward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& dy,
              const RowPair& x, const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& dx,
              const Tensor& dweights, const Tensor& dw1, const Tensor& dw2, Accumulation accumulation) {
  const std::int64_t hidden = w1.dim(2);
  const std::int64_t width = w1.dim(1);
  const std::int64_t ffn = w2.dim(2);
  const std::int64_t total = rows.total();
  const auto blocks = row_blocks(rows);
  const std::int64_t most = std::max(largest_block(blocks), std::min(total, kMaxBlockRows));
  const ArenaScope scope(ctx.workspace);
  const Scratch<T> row_scratch(ctx.workspace, most, hidden);
  const Scratch<float> da_scratch(ctx.workspace, most, ffn);
  T* a = ctx.workspace.tensor(w1.dtype(), {total, ffn}).data<T>();
  T* dh = ctx.workspace.tensor(w1.dtype(), {total, width}).data<T>();
  const PairRows<T> input(x, rows.source);
  const PairRows<T> upstream(dy, rows.source);
  const PairRows<T> output(dx, rows.destination);
  const float* weights = rows.weights.defined() ? rows.weights.data<float>() : nullptr;
  float* dweight = dweights.defined() ? dweights.data<float>() : nullptr;
  parallel_tasks(static_cast<std::int64_t>(blocks.size()), [&](std::int64_t task, int thread) {
    const Block& b = blocks[static_cast<std::size_t>(task)];
    T* scratch = row_scratch.of(thread);
    float* da = da_scratch.of(thread);
    const T* dyb = upstream.gather(b.begin, b.rows, scratch);
    gemm_tile(product(b.rows, ffn, hidden, dyb, w2.data<T>() + b.expert * hidden * ffn, Transpose::no, da,
                      DType::f32));
    for (std::int64_t r = 0; r < b.rows; ++r) {
      const std::int64_t i = b.begin + r;
      const float d =
          activate_row_backward(activation, ffn, h.data<T>() + i * width, da + r * ffn,
                                weights == nullptr ? 1.0F : weights[i], a + i * ffn, dh + i * width);
      if (dweight != nullptr) dweight[i] = d;
    }
    T* dxb = output.target(b.begin, b.rows, scratch);
    gemm_tile(product(b.rows, hidden, width, dh + b.begin * width, w1.data<T>() + b.expert * width * hidden,
                      Transpose::no, dxb, dtype_of<T>::value));
    output.scatter(b.begin, b.rows, dxb);
  });
  const WeightGradient<T> gradients[] = {
      {dh, width, input, hidden, dw1, false},
      {a, ffn, upstream, hidden, dw2, true},
  };
  const auto slices = weight_slices<T>(rows, gradients);
  const Scratch<float> sums(ctx.workspace, 1,
                            dw1.dtype() == DType::f32 ? 0 : largest_slice<T>(slices, gradients));
  parallel_tasks(static_cast<std::int64_t>(slices.size()), [&](std::int64_t task, int thread) {
    const Slice& s = slices[static_cast<std::size_t>(task)];
    sum_weight_gradient(gradients[s.gradient], s, accumulation, row_scratch.of(thread), sums.of(thread));
  });
}

}  // namespace

void grouped_mlp_forward(const Context& ctx, Activation activation, const ExpertRows& rows, const RowPair& x,
                         const Tensor& w1, const Tensor& w2, const Tensor& h, const RowPair& y) {
  with_float(w1.dtype(), [&]<typename T>(T) { forward<T>(ctx, activation, rows, x, w1, w2, h, y); });
}

void grouped_mlp_backward(const Context& ctx, Activation activation, const ExpertRows& rows,
                          const RowPair& dy, const RowPair& x, const Tensor& w1, const Tensor& w2,
                          const Tensor& h, const RowPair& dx, const Tensor& dweights, const Tensor& dw1,
                          const Tensor& dw2, Accumulation accumulation) {
  with_float(w1.dtype(), [&]<typename T>(T) {
    backward<T>(ctx, activation, rows, dy, x, w1, w2, h, dx, dweights, dw1, dw2, accumulation);
  });
}

}  // namespace xmoe::cpu
