// A stable counting sort of the assignments by expert, in three kernels: blocks count the experts of their
// assignments; the counts are summed over blocks; blocks place their assignments, each warp a run of them, a
// lane behind the lanes before it that name the same expert. Integer atomics count, and nothing else: the
// order never depends on them. With a capacity all are sorted first, dropped ones are marked, and those that
// are left are sorted again. All kernels are bound by latency: of launches, and of passes over some
// thousands of assignments by each block.
#include "moe/pft_gpu.h"

#include <algorithm>

#include "device/gpu.h"
#include "ops/gpu_rows.h"

namespace xmoe::gpu {

namespace {

constexpr FaultKind kNoSuchExpert{"assignment {position} names expert {value} of {bound}", true};

constexpr int kMostWarps = 8;       // of a block that counts or places
constexpr int kOfWarp = 128;        // assignments of a warp: four reads that are under way together
constexpr int kScanThreads = 256;   // of a block that sums over blocks
constexpr int kMarkThreads = 1024;  // one block has the assignments of an expert: often some thousands
// Shared memory for the counters of a block: as much as every GPU since 2020 has.
constexpr std::int64_t kCounterBytes = std::int64_t{96} << 10;

// Assignments of one chunk on their way to being sorted.
struct Sorting {
  const std::int32_t* expert;  // [count]
  const std::int32_t* kept;    // [count]: below 0 for those that are left out; or null
  std::int64_t count;
  int experts;               // E
  std::int64_t blocks;       // of count_kernel and place_kernel
  std::int32_t* before;      // [E, blocks]: a block's counts, then the sums over the blocks before it
  std::int64_t* per_expert;  // [E]

  __device__ int expert_of(std::int64_t a) const {  // -1: left out
    if (a >= count || (kept != nullptr && kept[a] < 0)) return -1;
    const std::int32_t e = expert[a];
    return e >= 0 && e < experts ? e : -1;
  }
};

// As many warps as the counters leave room for: a row of them for each, and one more.
int warps_for(int experts) {
  const std::int64_t rows = kCounterBytes / (std::int64_t{4} * experts) - 1;
  XMOE_CHECK(rows >= 1, "{} experts are more than a GPU's shared memory counts", experts);
  return static_cast<int>(std::min<std::int64_t>(rows, kMostWarps));
}

// data[i] becomes the sum of those before it; returns the sum of all. All threads of the block call it;
// `sums` holds one number per thread.
template <typename T>
__device__ T exclusive_scan(T* data, std::int64_t count, T* sums) {
  const int threads = static_cast<int>(blockDim.x);
  const int me = static_cast<int>(threadIdx.x);
  const std::int64_t share = (count + threads - 1) / threads;
  const std::int64_t begin = me * share < count ? me * share : count;
  const std::int64_t end = begin + share < count ? begin + share : count;
  T sum = 0;
  for (std::int64_t i = begin; i < end; ++i) sum += data[i];
  sums[me] = sum;
  __syncthreads();
  for (int step = 1; step < threads; step *= 2) {
    const T earlier = me >= step ? sums[me - step] : 0;
    __syncthreads();
    sums[me] += earlier;
    __syncthreads();
  }
  T running = sums[me] - sum;
  for (std::int64_t i = begin; i < end; ++i) {
    const T here = data[i];
    data[i] = running;
    running += here;
  }
  const T total = sums[threads - 1];
  __syncthreads();
  return total;
}

// Grid: blocks of the sorting. Shared memory: E counters.
__global__ void count_kernel(Sorting s, FaultReport no_such_expert) {
  std::int32_t* counters = dynamic_shared<std::int32_t>();
  for (int e = static_cast<int>(threadIdx.x); e < s.experts; e += static_cast<int>(blockDim.x))
    counters[e] = 0;
  __syncthreads();
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(blockDim.x) * (kOfWarp / kWarpSize);
#pragma unroll
  for (int i = 0; i < kOfWarp / kWarpSize; ++i) {
    const std::int64_t a = first + static_cast<std::int64_t>(i) * blockDim.x + threadIdx.x;
    const int e = s.expert_of(a);
    if (e >= 0)
      atomicAdd(counters + e, 1);
    else if (a < s.count && (s.expert[a] < 0 || s.expert[a] >= s.experts))
      no_such_expert.raise(a, s.expert[a], s.experts);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < s.experts; e += static_cast<int>(blockDim.x))
    s.before[e * s.blocks + blockIdx.x] = counters[e];
}

// Grid: E.
__global__ void sum_kernel(Sorting s) {
  __shared__ std::int32_t sums[kScanThreads];
  const std::int32_t total = exclusive_scan(s.before + blockIdx.x * s.blocks, s.blocks, sums);
  if (threadIdx.x == 0) s.per_expert[blockIdx.x] = total;
}

// Where each expert's rows begin, in shared memory.
__device__ void first_rows(const Sorting& s, std::int32_t* begin, std::int32_t* sums) {
  for (int e = static_cast<int>(threadIdx.x); e < s.experts; e += static_cast<int>(blockDim.x))
    begin[e] = static_cast<std::int32_t>(s.per_expert[e]);
  __syncthreads();
  exclusive_scan(begin, s.experts, sums);
}

// Calls store(assignment, row). Grid: blocks of the sorting. Shared memory: E counters, and E for each warp.
template <typename Store>
__global__ void place_kernel(Sorting s, Store store) {
  std::int32_t* counters = dynamic_shared<std::int32_t>();
  __shared__ std::int32_t sums[kMostWarps * kWarpSize];
  std::int32_t* begin = counters;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  std::int32_t* next = counters + s.experts * (1 + warp);
  first_rows(s, begin, sums);
  for (int e = lane; e < s.experts; e += kWarpSize) next[e] = 0;
  warp_barrier();
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * warps + warp) * kOfWarp;
  int mine[kOfWarp / kWarpSize];
#pragma unroll
  for (int i = 0; i < kOfWarp / kWarpSize; ++i) {
    mine[i] = s.expert_of(first + i * kWarpSize + lane);
    if (mine[i] >= 0) atomicAdd(next + mine[i], 1);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < s.experts; e += static_cast<int>(blockDim.x)) {
    std::int32_t row = begin[e] + s.before[e * s.blocks + blockIdx.x];
    for (int w = 0; w < warps; ++w) {
      std::int32_t& counter = counters[s.experts * (1 + w) + e];
      const std::int32_t count = counter;
      counter = row;
      row += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kOfWarp / kWarpSize; ++i) {
    const int e = mine[i];
    unsigned long long same = ballot(e >= 0);
    for (int bit = 1; bit < s.experts; bit *= 2) {
      const unsigned long long set = ballot((e & bit) != 0);
      same &= (e & bit) != 0 ? set : ~set;
    }
    const int ahead = __popcll(same & ((1ULL << lane) - 1));
    if (e >= 0) store(first + i * kWarpSize + lane, next[e] + ahead);
    warp_barrier();
    if (e >= 0 && ahead == 0) next[e] += __popcll(same);
    warp_barrier();
  }
}

struct StoreOrder {
  std::int32_t* order;  // [count]
  __device__ void operator()(std::int64_t a, std::int32_t row) const {
    order[row] = static_cast<std::int32_t>(a);
  }
};

struct StoreRows {
  const float* weight;  // [count]
  std::int32_t top_k;
  std::int32_t* token_ids;  // [B]
  float* weights;           // [B]
  std::int32_t* rows;       // [count]
  __device__ void operator()(std::int64_t a, std::int32_t row) const {
    token_ids[row] = static_cast<std::int32_t>(a) / top_k;
    weights[row] = weight[a];
    rows[a] = row;
  }
};

// Greater for greater weights; -0 like 0, and NaN like minus infinity.
__device__ unsigned rank_of(float weight) {
  const unsigned bits = __float_as_uint(isnan(weight) ? -INFINITY : weight + 0.0F);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000U;
}

// rows[a] = -1 for what an expert over its capacity loses: all but the `capacity` assignments of highest
// weight. The lowest weight that is kept is found digit by digit; of the assignments that have it the first
// are kept. `order` has the assignments by expert. Grid: E.
__global__ void mark_kernel(Sorting s, const std::int32_t* order, const float* weight, std::int64_t capacity,
                            std::int32_t* rows) {
  constexpr int kDigits = 256;
  __shared__ std::int32_t sums[kMarkThreads];
  __shared__ std::int32_t above[kDigits];
  __shared__ std::int32_t ahead_of_warp[kMarkThreads / kWarpSize];
  __shared__ unsigned lowest;         // digits of the lowest weight kept, as far as they are known
  __shared__ std::int32_t remaining;  // to keep of those that have these digits
  __shared__ std::int64_t begin;
  const int me = static_cast<int>(threadIdx.x);
  const std::int64_t count = s.per_expert[blockIdx.x];
  if (count <= capacity) return;
  std::int64_t earlier = 0;  // of experts before this one
  for (int e = me; e < static_cast<int>(blockIdx.x); e += kMarkThreads) earlier += s.per_expert[e];
  sums[me] = static_cast<std::int32_t>(earlier);
  __syncthreads();
  for (int half = kMarkThreads / 2; half > 0; half /= 2) {
    if (me < half) sums[me] += sums[me + half];
    __syncthreads();
  }
  if (me == 0) {
    begin = sums[0];
    lowest = 0;
    remaining = static_cast<std::int32_t>(capacity);
  }
  __syncthreads();
  const std::int32_t* mine = order + begin;
  if (capacity == 0) {
    for (std::int64_t i = me; i < count; i += kMarkThreads) rows[mine[i]] = -1;
    return;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int d = me; d < kDigits; d += kMarkThreads) above[d] = 0;
    __syncthreads();
    const unsigned known = lowest;
    const std::int32_t wanted = remaining;
    for (std::int64_t i = me; i < count; i += kMarkThreads) {
      const unsigned r = rank_of(weight[mine[i]]);
      // Shifted twice, since by 32 at once nothing would move.
      if ((r ^ known) >> shift >> 8 == 0) atomicAdd(above + (kDigits - 1 - (r >> shift & 255U)), 1);
    }
    __syncthreads();
    const std::int32_t here = me < kDigits ? above[me] : 0;
    exclusive_scan(above, kDigits, sums);
    if (me < kDigits && above[me] < wanted && wanted <= above[me] + here) {
      lowest = known | static_cast<unsigned>(kDigits - 1 - me) << shift;
      remaining = wanted - above[me];
    }
    __syncthreads();
  }
  std::int32_t seen = 0;  // assignments of the lowest weight
  for (std::int64_t from = 0; from < count; from += kMarkThreads) {
    const bool exists = from + me < count;
    const std::int32_t a = exists ? mine[from + me] : 0;
    const unsigned r = exists ? rank_of(weight[a]) : 0;
    const unsigned long long tied = ballot(exists && r == lowest);
    const int warp = me / kWarpSize;
    if (me % kWarpSize == 0) ahead_of_warp[warp] = __popcll(tied);
    __syncthreads();
    std::int32_t ahead = seen + __popcll(tied & ((1ULL << me % kWarpSize) - 1));
    for (int w = 0; w < kMarkThreads / kWarpSize; ++w) {
      if (w < warp) ahead += ahead_of_warp[w];
      seen += ahead_of_warp[w];
    }
    if (exists && (r < lowest || (r == lowest && ahead >= remaining))) rows[a] = -1;
    __syncthreads();
  }
}

// The sorting of `count` assignments, counted.
Sorting begin_sorting(const Context& ctx, const Tensor& top_experts, const std::int32_t* kept, int experts,
                      std::int64_t* per_expert) {
  const int warps = warps_for(experts);
  Sorting s{};
  s.expert = top_experts.data<std::int32_t>();
  s.kept = kept;
  s.count = top_experts.numel();
  s.experts = experts;
  s.blocks = ceil_div(s.count, std::int64_t{warps} * kOfWarp);
  s.before = ctx.workspace.tensor(DType::i32, {experts, s.blocks}).data<std::int32_t>();
  s.per_expert = per_expert;
  const Stream queue = stream(ctx.device());
  const auto counters = static_cast<std::size_t>(experts) * sizeof(std::int32_t);
  launch(count_kernel, grid_of(s.blocks, 1), Block(static_cast<unsigned>(warps * kWarpSize)), counters, queue,
         s, FaultReport(ctx.device(), kNoSuchExpert));
  launch(sum_kernel, grid_of(experts, 1), Block(kScanThreads), 0, queue, s);
  return s;
}

template <typename Store>
void place(const Context& ctx, const Sorting& s, const Store& store) {
  const int warps = warps_for(s.experts);
  const auto counters = static_cast<std::size_t>(s.experts) * (1 + warps) * sizeof(std::int32_t);
  launch(place_kernel<Store>, grid_of(s.blocks, 1), Block(static_cast<unsigned>(warps * kWarpSize)), counters,
         stream(ctx.device()), s, store);
}

// rows: -1 for what is dropped, 0 for all else.
void mark_dropped(const Context& ctx, const Tensor& top_experts, const Tensor& top_weights, int experts,
                  std::int64_t capacity, const Tensor& rows) {
  const ArenaScope scope(ctx.workspace);
  const Tensor per_expert = ctx.workspace.tensor(DType::i64, {experts});
  const Sorting s = begin_sorting(ctx, top_experts, nullptr, experts, per_expert.data<std::int64_t>());
  const Tensor order = ctx.workspace.tensor(DType::i32, {s.count});
  place(ctx, s, StoreOrder{order.data<std::int32_t>()});
  device_fill(ctx.device(), rows.raw(), 0, rows.bytes());
  launch(mark_kernel, grid_of(experts, 1), Block(kMarkThreads), 0, stream(ctx.device()), s,
         order.data<std::int32_t>(), top_weights.data<float>(), capacity, rows.data<std::int32_t>());
}

}  // namespace

void fill_pfts(const Context& ctx, Arena& arena, Arena& weights_arena, const Tensor& top_experts,
               const Tensor& top_weights, std::optional<std::int64_t> capacity, const Tensor& rows,
               std::vector<Pft>& pfts) {
  check_device(ctx.device(), {top_experts, top_weights, rows});
  const auto experts = static_cast<int>(pfts.front().per_expert.size());
  if (capacity) mark_dropped(ctx, top_experts, top_weights, experts, *capacity, rows);
  const auto chunks = static_cast<std::int64_t>(pfts.size());
  const Tensor counts = ctx.workspace.tensor(DType::i64, {chunks, experts});
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < chunks; ++i) {
    Pft& pft = pfts[static_cast<std::size_t>(i)];
    const Sorting sorting = begin_sorting(ctx, top_experts.slice(first, first + pft.tokens),
                                          capacity ? pft.rows.data<std::int32_t>() : nullptr, experts,
                                          counts.data<std::int64_t>() + i * experts);
    pft.token_ids = arena.tensor(DType::i32, {sorting.count});
    pft.weights = weights_arena.tensor(DType::f32, {sorting.count});
    place(ctx, sorting,
          StoreRows{top_weights.slice(first, first + pft.tokens).data<float>(),
                    static_cast<std::int32_t>(pft.top_k), pft.token_ids.data<std::int32_t>(),
                    pft.weights.data<float>(), pft.rows.data<std::int32_t>()});
    first += pft.tokens;
  }
  std::vector<std::int64_t> all(static_cast<std::size_t>(chunks * experts));
  device_copy(ctx.device(), counts.raw(), {}, all.data(), counts.bytes());
  for (std::size_t i = 0; i < pfts.size(); ++i) {
    Pft& pft = pfts[i];
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(i) * experts, experts, pft.per_expert.begin());
    std::int64_t kept = 0;
    for (const std::int64_t n : pft.per_expert) kept += n;
    pft.token_ids = pft.token_ids.slice(0, kept);
    pft.weights = pft.weights.slice(0, kept);
  }
}

}  // namespace xmoe::gpu
