// Backward: probabilities are recomputed tile by tile from the kept log-sum-exp, never stored.
//
//   P = exp(scale Q K^T - lse)   dP = dO V^T       dS = scale P (dP - rowsum(dO O))
//   dV = P^T dO                  dK = dS^T Q       dQ = dS K
//
// A tile is one chunk of queries by one block of keys. Two plans run the same products on the same tiles, in
// the same order for every element of a gradient, so that their results are equal bit by bit:
//
//   by head   a task takes all tiles of one (sequence, kv head), with five products each; dQ, dK and dV are
//             summed in f32 scratch of [S, D].
//   by block  one kind of task for a chunk of dQ (three products), another for a block of dK and dV (four):
//             1.4 times the work, but many tasks.
#include <algorithm>

#include "base/parallel.h"
#include "ops/attention/attention_cpu.h"
#include "ops/attention/attention_rows.h"

namespace xmoe::cpu {

namespace {

// 256 x 128: scores and dP in f32, P and dS in bf16 make 384 KiB, which leaves room for the operands in an L2
// cache of 1 MiB; smaller tiles slow the products down. The chunk is a multiple of the block, so that every
// row of a tile sees its first key.
constexpr std::int64_t kQueryChunk = 256;
constexpr std::int64_t kBackwardKeys = 128;
// Below this share of busy threads the plan by block wins: it does 7 products where the plan by head does 5.
constexpr double kLeastBusy = 5.0 / 7.0;

// Operands of one (sequence, head).
template <typename T>
struct Head {
  HeadRows<const T> q, k, v, dout;
  const float* lse;    // [S]
  const float* delta;  // [S]: rowsum(dO * O)
};

template <typename T>
struct Tile {
  std::int64_t first = 0, rows = 0;  // queries
  std::int64_t key = 0, keys = 0;
  T* p = nullptr;   // [rows, keys]
  T* ds = nullptr;  // [rows, keys]
};

template <typename T>
class Backward {
 public:
  Backward(const Context& ctx, const AttentionShape& shape, const Tensor& dout, const Tensor& qkv,
           const Tensor& out, const Tensor& lse, const Tensor& dqkv)
      : ctx_(ctx),
        shape_(shape),
        d_(shape.head_dim),
        scale_(score_scale(shape)),
        layout_{shape, qkv.data<T>()},
        gradients_{shape, dqkv.data<T>()},
        dout_(dout.data<T>()),
        out_(out.data<T>()),
        lse_(lse.data<float>()) {}

  void run() {
    const ArenaScope scope(ctx_.workspace);
    compute_delta();
    const std::int64_t tasks = shape_.batch * shape_.kv_heads;
    const std::int64_t threads = thread_count();
    const std::int64_t rounds = (tasks + threads - 1) / threads;
    const double busy =
        static_cast<double>(tasks) / static_cast<double>(std::max<std::int64_t>(1, rounds * threads));
    if (busy >= kLeastBusy || shape_.seq <= kQueryChunk) {
      by_head(tasks);
    } else {
      by_block(tasks);
    }
  }

 private:
  void compute_delta() {
    delta_ = static_cast<float*>(
        ctx_.workspace.allocate(static_cast<std::size_t>(shape_.rows() * shape_.heads) * sizeof(float)));
    // A few rows of a few hundred values per thread are not worth a parallel region.
    constexpr std::int64_t kRowsAtLeast = 16;
    const std::int64_t width = shape_.heads * d_;
    parallel_for(shape_.rows(), kRowsAtLeast, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t h = 0; h < shape_.heads; ++h) {
          const float sum = dot(dout_ + t * width + h * d_, out_ + t * width + h * d_, d_);
          delta_[((t / shape_.seq) * shape_.heads + h) * shape_.seq + t % shape_.seq] = sum;
        }
      }
    });
  }

  std::int64_t group() const { return shape_.heads / shape_.kv_heads; }

  Head<T> head(std::int64_t b, std::int64_t h) const {
    const std::int64_t kept = (b * shape_.heads + h) * shape_.seq;
    return {layout_.q(b, h),
            layout_.k(b, h / group()),
            layout_.v(b, h / group()),
            output_rows(shape_, dout_, b, h),
            lse_ + kept,
            delta_ + kept};
  }

  static std::size_t tile_bytes() {
    const std::int64_t elements = kQueryChunk * kBackwardKeys;
    return 2 * (ThreadScratch::size<float>(elements) + (kInPlace ? 0 : ThreadScratch::size<T>(elements)));
  }

  // Recomputes P and dS of one tile.
  Tile<T> tile(ThreadScratch scratch, const Head<T>& h, std::int64_t chunk, std::int64_t key) const {
    auto* scores = scratch.take<float>(kQueryChunk * kBackwardKeys);
    auto* dp = scratch.take<float>(kQueryChunk * kBackwardKeys);
    Tile<T> t;
    if constexpr (kInPlace) {
      t.p = scores;
      t.ds = dp;
    } else {
      t.p = scratch.take<T>(kQueryChunk * kBackwardKeys);
      t.ds = scratch.take<T>(kQueryChunk * kBackwardKeys);
    }
    t.first = std::max(chunk, key);  // queries before the first key of the block do not see it
    t.rows = std::min(chunk + kQueryChunk, shape_.seq) - t.first;
    t.key = key;
    t.keys = std::min(kBackwardKeys, shape_.seq - key);
    multiply(t.rows, t.keys, d_, h.q.row(t.first), h.q.stride, Transpose::no, h.k.row(key), h.k.stride,
             Transpose::yes, scores, t.keys, false);
    multiply(t.rows, t.keys, d_, h.dout.row(t.first), h.dout.stride, Transpose::no, h.v.row(key), h.v.stride,
             Transpose::yes, dp, t.keys, false);
    for (std::int64_t r = 0; r < t.rows; ++r) {
      const std::int64_t visible = std::min(t.keys, t.first + r - key + 1);
      probabilities(scores + r * t.keys, dp + r * t.keys, visible, h.lse[t.first + r], h.delta[t.first + r],
                    t.p + r * t.keys, t.ds + r * t.keys);
      std::fill(t.p + r * t.keys + visible, t.p + (r + 1) * t.keys, T(0.0F));
      std::fill(t.ds + r * t.keys + visible, t.ds + (r + 1) * t.keys, T(0.0F));
    }
    return t;
  }

  void probabilities(const float* scores, const float* dp, std::int64_t n, float lse, float delta, T* p_out,
                     T* ds_out) const {
    const float scale = scale_;
#pragma omp simd
    for (std::int64_t j = 0; j < n; ++j) {
      const float p = fast_exp(scores[j] * scale - lse);
      const float ds = p * (dp[j] - delta) * scale;
      round_to(p, p_out[j]);
      round_to(ds, ds_out[j]);
    }
  }

  void add_dq(const Tile<T>& t, const Head<T>& h, float* dq) const {  // dq: [rows of the tile, D]
    multiply(t.rows, d_, t.keys, static_cast<const T*>(t.ds), t.keys, Transpose::no, h.k.row(t.key),
             h.k.stride, Transpose::no, dq, d_, t.key > 0);
  }

  void add_dk_dv(const Tile<T>& t, const Head<T>& h, float* dk, float* dv,
                 bool accumulate) const {  // dk, dv: [keys of the tile, D]
    multiply(t.keys, d_, t.rows, static_cast<const T*>(t.p), t.keys, Transpose::yes, h.dout.row(t.first),
             h.dout.stride, Transpose::no, dv, d_, accumulate);
    multiply(t.keys, d_, t.rows, static_cast<const T*>(t.ds), t.keys, Transpose::yes, h.q.row(t.first),
             h.q.stride, Transpose::no, dk, d_, accumulate);
  }

  void store(const float* from, std::int64_t rows, HeadRows<T> to, std::int64_t first) const {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < d_; ++c) to.row(first + r)[c] = T(from[r * d_ + c]);
  }

  std::byte* thread_memory(std::size_t bytes_each) const {
    return static_cast<std::byte*>(
        ctx_.workspace.allocate(bytes_each * static_cast<std::size_t>(thread_count())));
  }

  void by_head(std::int64_t tasks) const {
    const std::size_t sums = ThreadScratch::size<float>(shape_.seq * d_);
    const std::size_t bytes = 3 * sums + tile_bytes();
    std::byte* memory = thread_memory(bytes);
    parallel_tasks(tasks, [&](std::int64_t task, int thread) {
      const std::int64_t b = task / shape_.kv_heads;
      const std::int64_t kv_head = task % shape_.kv_heads;
      ThreadScratch scratch(memory + static_cast<std::size_t>(thread) * bytes);
      auto* dq = scratch.take<float>(shape_.seq * d_);
      auto* dk = scratch.take<float>(shape_.seq * d_);
      auto* dv = scratch.take<float>(shape_.seq * d_);
      for (std::int64_t member = 0; member < group(); ++member) {
        const Head<T> h = head(b, kv_head * group() + member);
        for (std::int64_t key = 0; key < shape_.seq; key += kBackwardKeys) {
          bool accumulate = member > 0;
          for (std::int64_t chunk = key / kQueryChunk * kQueryChunk; chunk < shape_.seq;
               chunk += kQueryChunk) {
            const Tile<T> t = tile(scratch, h, chunk, key);
            add_dq(t, h, dq + t.first * d_);
            add_dk_dv(t, h, dk + key * d_, dv + key * d_, accumulate);
            accumulate = true;
          }
        }
        store(dq, shape_.seq, gradients_.q(b, kv_head * group() + member), 0);
      }
      store(dk, shape_.seq, gradients_.k(b, kv_head), 0);
      store(dv, shape_.seq, gradients_.v(b, kv_head), 0);
    });
  }

  void by_block(std::int64_t kv_tasks) const {
    const std::size_t bytes = ThreadScratch::size<float>(kQueryChunk * d_) +
                              2 * ThreadScratch::size<float>(kBackwardKeys * d_) + tile_bytes();
    std::byte* memory = thread_memory(bytes);
    const std::int64_t key_blocks = (shape_.seq + kBackwardKeys - 1) / kBackwardKeys;
    const std::int64_t chunks = (shape_.seq + kQueryChunk - 1) / kQueryChunk;
    const std::int64_t key_tasks = kv_tasks * key_blocks;
    const std::int64_t sequences = shape_.batch * shape_.heads;
    parallel_tasks(key_tasks + sequences * chunks, [&](std::int64_t task, int thread) {
      const ThreadScratch scratch(memory + static_cast<std::size_t>(thread) * bytes);
      // The longest tasks go first: the first keys (every query sees them), then the last queries.
      if (task < key_tasks) {
        key_task(scratch, task % kv_tasks, task / kv_tasks * kBackwardKeys);
      } else {
        query_task(scratch, (task - key_tasks) % sequences,
                   (chunks - 1 - (task - key_tasks) / sequences) * kQueryChunk);
      }
    });
  }

  void key_task(ThreadScratch scratch, std::int64_t sequence, std::int64_t key) const {
    const std::int64_t b = sequence / shape_.kv_heads;
    const std::int64_t kv_head = sequence % shape_.kv_heads;
    auto* dk = scratch.take<float>(kBackwardKeys * d_);
    auto* dv = scratch.take<float>(kBackwardKeys * d_);
    bool accumulate = false;
    for (std::int64_t member = 0; member < group(); ++member) {
      const Head<T> h = head(b, kv_head * group() + member);
      for (std::int64_t chunk = key / kQueryChunk * kQueryChunk; chunk < shape_.seq; chunk += kQueryChunk) {
        add_dk_dv(tile(scratch, h, chunk, key), h, dk, dv, accumulate);
        accumulate = true;
      }
    }
    const std::int64_t keys = std::min(kBackwardKeys, shape_.seq - key);
    store(dk, keys, gradients_.k(b, kv_head), key);
    store(dv, keys, gradients_.v(b, kv_head), key);
  }

  void query_task(ThreadScratch scratch, std::int64_t sequence, std::int64_t chunk) const {
    const std::int64_t b = sequence / shape_.heads;
    const Head<T> h = head(b, sequence % shape_.heads);
    auto* dq = scratch.take<float>(kQueryChunk * d_);
    const std::int64_t end = std::min(chunk + kQueryChunk, shape_.seq);
    for (std::int64_t key = 0; key < end; key += kBackwardKeys) {
      const Tile<T> t = tile(scratch, h, chunk, key);
      add_dq(t, h, dq + (t.first - chunk) * d_);
    }
    store(dq, end - chunk, gradients_.q(b, sequence % shape_.heads), chunk);
  }

  static constexpr bool kInPlace = std::is_same_v<T, float>;

  const Context& ctx_;
  AttentionShape shape_;
  std::int64_t d_;
  float scale_;
  QkvLayout<const T> layout_;
  QkvLayout<T> gradients_;
  const T* dout_;
  const T* out_;
  const float* lse_;
  float* delta_ = nullptr;  // [batch, heads, S]
};

}  // namespace

void attention_backward(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                        const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  with_float(qkv.dtype(), [&]<typename T>(T) { Backward<T>(ctx, shape, dout, qkv, out, lse, dqkv).run(); });
}

}  // namespace xmoe::cpu
