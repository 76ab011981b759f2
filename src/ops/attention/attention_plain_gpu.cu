// The path without cuDNN: products, and passes over rows between them. Scores of some heads, or of a block of
// their queries, are held in scratch, in f32.
//
//   forward    scores = scale Q K^T     P = softmax of rows, lse     O = P V
//   backward   P = exp(scale Q K^T - lse)     dS = scale P (dO V^T - delta)     delta = rowsum(dO O)
//              dQ = dS K     dV = sum P^T dO     dK = sum dS^T Q     over the heads that share K and V
//
// Tiles above the diagonal are neither computed nor read; within a tile what a query does not see is 0. The
// queries of a block begin at a multiple of a tile's rows, so that a sum over queries begins where the tiles
// of its keys do.
#include <algorithm>
#include <cmath>

#include "ops/attention/attention_gpu.h"
#include "ops/attention/attention_product_gpu.h"

namespace xmoe::gpu {

namespace {

constexpr std::int64_t kMostProducts = 65535;  // of a grid's last dimension
constexpr int kRowsOfBlock = 8;                // a warp each

// What is held at a time: units, which are the query heads that share one key-value head of a sequence, by a
// block of queries. A held head's scores are [queries, S].
struct Held {
  AttentionShape shape;
  std::int64_t group;  // query heads of a unit
  std::int64_t first_unit, units;
  std::int64_t first_query, queries;
  float scale;

  bool is_first_block() const { return first_query == 0; }
  bool is_last_block() const { return first_query + queries == shape.seq; }
  std::int64_t heads() const { return units * group; }
  std::int64_t scores() const { return heads() * queries * shape.seq; }

  __device__ std::int64_t qkv_width() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }
  __device__ std::int64_t out_width() const { return shape.heads * shape.head_dim; }
  __device__ std::int64_t sequence(std::int64_t unit) const { return (first_unit + unit) / shape.kv_heads; }
  __device__ std::int64_t kv_head(std::int64_t unit) const { return (first_unit + unit) % shape.kv_heads; }
  __device__ std::int64_t query_head(std::int64_t held) const {
    return kv_head(held / group) * group + held % group;
  }
  // Where the rows of the held queries, or of all keys, begin in qkv, out, lse and the scores.
  __device__ std::int64_t q(std::int64_t held) const {
    return (sequence(held / group) * shape.seq + first_query) * qkv_width() +
           query_head(held) * shape.head_dim;
  }
  __device__ std::int64_t k(std::int64_t unit) const {
    return sequence(unit) * shape.seq * qkv_width() + (shape.heads + kv_head(unit)) * shape.head_dim;
  }
  __device__ std::int64_t v(std::int64_t unit) const { return k(unit) + shape.kv_heads * shape.head_dim; }
  __device__ std::int64_t out(std::int64_t held) const {
    return (sequence(held / group) * shape.seq + first_query) * out_width() +
           query_head(held) * shape.head_dim;
  }
  __device__ std::int64_t statistic(std::int64_t held) const {
    return (sequence(held / group) * shape.heads + query_head(held)) * shape.seq + first_query;
  }
  __device__ std::int64_t score(std::int64_t held) const { return held * queries * shape.seq; }
};

// A matrix with rows `stride` apart; 0 outside of it.
template <typename T>
struct Matrix {
  const T* data;
  std::int64_t stride, rows, columns;

  __device__ float at(std::int64_t row, std::int64_t column) const {
    return row < rows && column < columns ? to_float(data[row * stride + column]) : 0.0F;
  }
};

enum class Scores : std::uint8_t { scaled, probabilities, gradients };

// Queries by keys, summed over a head: of Q K^T or dO V^T.
template <Scores kind, typename T>
struct ScoresProblem {
  static constexpr bool kInnerFirstA = true;
  static constexpr bool kInnerFirstB = true;
  Held held;
  const T *qkv, *dout;
  const float* statistics;  // lse, or delta
  const float* p;           // for the gradients
  float* scores;

  struct Job {
    Held held;
    Matrix<T> by_query, by_key;
    const float *statistics, *p;
    float* scores;
    bool empty;
    std::int64_t segments, begin, end;

    __device__ float a(std::int64_t, std::int64_t row, std::int64_t inner) const {
      return by_query.at(row, inner);
    }
    __device__ float b(std::int64_t, std::int64_t inner, std::int64_t column) const {
      return by_key.at(column, inner);
    }
    __device__ void store(std::int64_t row, std::int64_t column, float sum) const {
      if (row >= by_query.rows || column >= by_key.rows) return;
      const std::int64_t at = row * held.shape.seq + column;
      float value = 0.0F;
      if (column <= held.first_query + row) {
        if constexpr (kind == Scores::scaled) value = held.scale * sum;
        if constexpr (kind == Scores::probabilities) value = expf(held.scale * sum - statistics[row]);
        if constexpr (kind == Scores::gradients) value = held.scale * p[at] * (sum - statistics[row]);
      }
      scores[at] = value;
    }
  };

  __device__ Job job(std::int64_t z, std::int64_t row, std::int64_t column) const {
    const std::int64_t last_row = min(row + kTileRows, held.queries) - 1;
    const std::int64_t d = held.shape.head_dim;
    const std::int64_t unit = z / held.group;
    const bool gradients = kind == Scores::gradients;
    return {.held = held,
            .by_query = {gradients ? dout + held.out(z) : qkv + held.q(z),
                         gradients ? held.out_width() : held.qkv_width(), held.queries, d},
            .by_key = {qkv + (gradients ? held.v(unit) : held.k(unit)), held.qkv_width(), held.shape.seq, d},
            .statistics = statistics + held.statistic(z),
            .p = p + held.score(z),
            .scores = scores + held.score(z),
            .empty = column > held.first_query + last_row,
            .segments = 1,
            .begin = 0,
            .end = d};
  }
};

enum class QueryRows : std::uint8_t { outputs, gradients };

// Queries by the columns of a head, summed over the keys that they see: P V or dS K.
template <QueryRows kind, typename T>
struct QueryProblem {
  static constexpr bool kInnerFirstA = true;
  static constexpr bool kInnerFirstB = false;
  Held held;
  const float* scores;
  const T* qkv;
  T* to;  // out or dqkv

  struct Job {
    Matrix<float> scores;
    Matrix<T> by_key;
    T* to;
    std::int64_t stride;
    bool empty;
    std::int64_t segments, begin, end;

    __device__ float a(std::int64_t, std::int64_t row, std::int64_t inner) const {
      return scores.at(row, inner);
    }
    __device__ float b(std::int64_t, std::int64_t inner, std::int64_t column) const {
      return by_key.at(inner, column);
    }
    __device__ void store(std::int64_t row, std::int64_t column, float sum) const {
      if (row < scores.rows && column < by_key.columns) round_to(sum, to[row * stride + column]);
    }
  };

  __device__ Job job(std::int64_t z, std::int64_t row, std::int64_t) const {
    const std::int64_t seen = held.first_query + min(row + kTileRows, held.queries);
    const std::int64_t unit = z / held.group;
    const bool outputs = kind == QueryRows::outputs;
    return {.scores = {scores + held.score(z), held.shape.seq, held.queries, seen},
            .by_key = {qkv + (outputs ? held.v(unit) : held.k(unit)), held.qkv_width(), seen,
                       held.shape.head_dim},
            .to = to + (outputs ? held.out(z) : held.q(z)),
            .stride = outputs ? held.out_width() : held.qkv_width(),
            .empty = false,
            .segments = 1,
            .begin = 0,
            .end = seen};
  }
};

enum class KeyRows : std::uint8_t { key_gradients, value_gradients };

// Keys by the columns of a head, summed over the heads of the group and the queries that see them: dS^T Q or
// P^T dO. Between blocks of queries the sums are carried in f32.
template <KeyRows kind, typename T>
struct KeyProblem {
  static constexpr bool kInnerFirstA = false;
  static constexpr bool kInnerFirstB = false;
  Held held;
  const float* scores;
  const T *qkv, *dout;
  float* carried;  // [units, S, D]; null where all queries are held
  bool first, last;
  T* dqkv;

  struct Job {
    const KeyProblem* of;
    std::int64_t unit;
    bool empty;
    std::int64_t segments, begin, end;

    __device__ float a(std::int64_t segment, std::int64_t row, std::int64_t inner) const {
      const Held& held = of->held;
      const Matrix<float> m{of->scores + held.score(unit * held.group + segment), held.shape.seq,
                            held.queries, held.shape.seq};
      return m.at(inner, row);
    }
    __device__ float b(std::int64_t segment, std::int64_t inner, std::int64_t column) const {
      const Held& held = of->held;
      const std::int64_t head = unit * held.group + segment;
      const bool keys = kind == KeyRows::key_gradients;
      const Matrix<T> m{keys ? of->qkv + held.q(head) : of->dout + held.out(head),
                        keys ? held.qkv_width() : held.out_width(), held.queries, held.shape.head_dim};
      return m.at(inner, column);
    }
    __device__ void store(std::int64_t row, std::int64_t column, float sum) const {
      const Held& held = of->held;
      if (row >= held.shape.seq || column >= held.shape.head_dim) return;
      float* kept = of->carried + (unit * held.shape.seq + row) * held.shape.head_dim + column;
      if (!of->first) sum += *kept;
      if (!of->last) {
        *kept = sum;
        return;
      }
      const std::int64_t to = kind == KeyRows::key_gradients ? held.k(unit) : held.v(unit);
      round_to(sum, of->dqkv[to + row * held.qkv_width() + column]);
    }
  };

  __device__ Job job(std::int64_t z, std::int64_t row, std::int64_t) const {
    return {.of = this,
            .unit = z,
            .empty = false,
            .segments = held.group,
            .begin = max(std::int64_t{0}, row - held.first_query),
            .end = held.queries};
  }
};

template <typename F>
__device__ float over_warp(float value, const F& combine) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}
__device__ float sum_over_warp(float value) {
  return over_warp(value, [](float a, float b) { return a + b; });
}

// In place. A warp takes a row: that of one query of one held head. Bound by bytes.
__global__ void softmax_kernel(Held held, std::int64_t rows, float* scores, float* lse) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  const std::int64_t query = r % held.queries;
  float* row = scores + r * held.shape.seq;
  const std::int64_t seen = held.first_query + query + 1;
  float maximum = -INFINITY;
  for (std::int64_t j = threadIdx.x; j < seen; j += kWarpSize) maximum = fmaxf(maximum, row[j]);
  maximum = over_warp(maximum, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0.0F;
  for (std::int64_t j = threadIdx.x; j < seen; j += kWarpSize) sum += expf(row[j] - maximum);
  const float log_sum = maximum + logf(sum_over_warp(sum));
  for (std::int64_t j = threadIdx.x; j < seen; j += kWarpSize) row[j] = expf(row[j] - log_sum);
  if (threadIdx.x == 0) lse[held.statistic(r / held.queries) + query] = log_sum;
}

// A warp takes a head of a row.
template <typename T>
__global__ void delta_kernel(AttentionShape shape, std::int64_t rows, const T* dout, const T* out,
                             float* delta) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  float sum = 0.0F;
  for (std::int64_t c = r * shape.head_dim + threadIdx.x; c < (r + 1) * shape.head_dim; c += kWarpSize)
    sum += to_float(dout[c]) * to_float(out[c]);
  sum = sum_over_warp(sum);
  const std::int64_t t = r / shape.heads;
  if (threadIdx.x == 0)
    delta[(t / shape.seq * shape.heads + r % shape.heads) * shape.seq + t % shape.seq] = sum;
}

// Calls f for what is held at a time, of which a score takes `bytes` of `scratch_bytes`.
template <typename F>
void for_held(const AttentionShape& s, std::int64_t bytes, std::int64_t scratch_bytes, F&& f) {
  const std::int64_t group = s.heads / s.kv_heads;
  const std::int64_t all_units = s.batch * s.kv_heads;
  if (s.rows() == 0) return;
  const std::int64_t row_bytes = group * s.seq * bytes;  // a query of each head of a unit
  const std::int64_t tiles = std::max<std::int64_t>(1, scratch_bytes / row_bytes / kTileRows);
  const std::int64_t queries = std::min(s.seq, tiles * kTileRows);
  const std::int64_t fitting = std::min(scratch_bytes / (row_bytes * queries), kMostProducts / group);
  const std::int64_t units = std::clamp<std::int64_t>(fitting, 1, all_units);
  Held held{.shape = s,
            .group = group,
            .first_unit = 0,
            .units = 0,
            .first_query = 0,
            .queries = 0,
            .scale = 1.0F / std::sqrt(static_cast<float>(s.head_dim))};
  for (held.first_unit = 0; held.first_unit < all_units; held.first_unit += units) {
    held.units = std::min(units, all_units - held.first_unit);
    for (held.first_query = 0; held.first_query < s.seq; held.first_query += queries) {
      held.queries = std::min(queries, s.seq - held.first_query);
      f(static_cast<const Held&>(held));
    }
  }
}

template <typename T>
void forward(const Context& ctx, const AttentionShape& s, const T* qkv, T* out, float* lse,
             std::int64_t scratch_bytes) {
  const Stream queue = stream(ctx.device());
  for_held(s, sizeof(float), scratch_bytes, [&](const Held& held) {
    const ArenaScope scope(ctx.workspace);
    auto* scores = ctx.workspace.tensor(DType::f32, {held.scores()}).data<float>();
    launch_products(ScoresProblem<Scores::scaled, T>{held, qkv, nullptr, lse, nullptr, scores}, held.queries,
                    s.seq, held.heads(), queue);
    const std::int64_t rows = held.heads() * held.queries;
    launch(softmax_kernel, grid_of(rows, kRowsOfBlock), Block(kWarpSize, kRowsOfBlock), 0, queue, held, rows,
           scores, lse);
    launch_products(QueryProblem<QueryRows::outputs, T>{held, scores, qkv, out}, held.queries, s.head_dim,
                    held.heads(), queue);
  });
}

template <typename T>
void backward(const Context& ctx, const AttentionShape& s, const T* dout, const T* qkv, const T* out,
              const float* lse, T* dqkv, std::int64_t scratch_bytes) {
  const Stream queue = stream(ctx.device());
  const ArenaScope scope(ctx.workspace);
  const std::int64_t rows = s.rows() * s.heads;
  auto* delta = ctx.workspace.tensor(DType::f32, {rows}).data<float>();
  launch(delta_kernel<T>, grid_of(rows, kRowsOfBlock), Block(kWarpSize, kRowsOfBlock), 0, queue, s, rows,
         dout, out, delta);
  float* carried[2] = {};  // of dK and dV, over the blocks of the same units
  for_held(s, 2 * sizeof(float), scratch_bytes, [&](const Held& held) {
    if (!(held.is_first_block() && held.is_last_block()) && carried[0] == nullptr)
      for (float*& c : carried)
        c = ctx.workspace.tensor(DType::f32, {held.units * s.seq * s.head_dim}).data<float>();
    const ArenaScope scores_scope(ctx.workspace);
    auto* p = ctx.workspace.tensor(DType::f32, {held.scores()}).data<float>();
    auto* ds = ctx.workspace.tensor(DType::f32, {held.scores()}).data<float>();
    launch_products(ScoresProblem<Scores::probabilities, T>{held, qkv, dout, lse, nullptr, p}, held.queries,
                    s.seq, held.heads(), queue);
    launch_products(ScoresProblem<Scores::gradients, T>{held, qkv, dout, delta, p, ds}, held.queries, s.seq,
                    held.heads(), queue);
    launch_products(QueryProblem<QueryRows::gradients, T>{held, ds, qkv, dqkv}, held.queries, s.head_dim,
                    held.heads(), queue);
    const bool first = held.is_first_block();
    const bool last = held.is_last_block();
    launch_products(KeyProblem<KeyRows::key_gradients, T>{held, ds, qkv, dout, carried[0], first, last, dqkv},
                    s.seq, s.head_dim, held.units, queue);
    launch_products(
        KeyProblem<KeyRows::value_gradients, T>{held, p, qkv, dout, carried[1], first, last, dqkv}, s.seq,
        s.head_dim, held.units, queue);
  });
}

}  // namespace

namespace plain {

void attention_forward(const Context& ctx, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse, std::int64_t scratch_bytes) {
  with_float(qkv.dtype(), [&]<typename T>(T) {
    forward(ctx, shape, qkv.data<T>(), out.data<T>(), lse.data<float>(), scratch_bytes);
  });
}

void attention_backward(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                        const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dqkv,
                        std::int64_t scratch_bytes) {
  with_float(qkv.dtype(), [&]<typename T>(T) {
    backward(ctx, shape, dout.data<T>(), qkv.data<T>(), out.data<T>(), lse.data<float>(), dqkv.data<T>(),
             scratch_bytes);
  });
}

}  // namespace plain

}  // namespace xmoe::gpu
