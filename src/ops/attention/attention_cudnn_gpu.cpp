// A graph of cuDNN is made per shape and kept: making one takes some milliseconds, running it microseconds.
// It reads q, k and v where they lie in the rows of qkv, by strides.
//
// Gradients have the same bits every time. Before Blackwell that costs memory: the gradients of the scores,
// [batch, heads, S, S] in 16 bits, are stored and dQ is a product of its own, where the kernel that adds up
// dQ by atomics stores nothing. So the sequences of a batch go in groups whose scores fit kMostScores.
#include "ops/attention/attention_cudnn_gpu.h"

#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "base/log.h"

namespace xmoe::cudnn {

namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using TensorOfGraph = std::shared_ptr<Tensor_attributes>;

// Of the scores' gradients. A few sequences at a time keep a GPU busy; more of them gain nothing.
constexpr std::int64_t kMostScores = std::int64_t{1} << 30;
// Its kernels count scores in tiles of up to this many queries and keys.
constexpr std::int64_t kTile = 128;
// What its kernels read and write at a time; they do not check it.
constexpr std::uintptr_t kAccess = 16;
constexpr std::size_t kWorkspaceAlignment =
    256;  // as the runtime's own allocations, and arenas do not give it
// Sequence lengths differ between training, evaluation and the prompts of generation; a run has a handful.
// Graphs hold compiled code, so that a stream of ever new lengths must not keep all of them.
constexpr std::size_t kMostGraphs = 256;

enum Name : std::int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

enum class Pass : std::uint8_t { forward, backward, backward_any_order };

struct Entry {
  std::unique_ptr<Graph> graph;  // null: cuDNN has no kernel
  std::size_t workspace = 0;     // bytes
};

// What graphs are made for.
struct Problem : AttentionShape {
  fe::DataType_t type;
};

using Key =
    std::tuple<Pass, fe::DataType_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

struct Library {
  cudnnHandle_t handle = nullptr;
  std::map<Key, Entry> graphs;
};

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) fail("cuDNN failed {}: {}", what, cudnnGetErrorString(status));
}

// By value: its answers are not const.
void check(fe::error_t error, const char* what) {
  if (error.is_bad()) fail("cuDNN failed {}: {}", what, error.get_message());
}

std::mutex& mutex() {
  static std::mutex m;
  return m;
}

// Of the device that the calling thread has chosen. Handles live as long as the process, like streams. To be
// called with the mutex held.
Library& library(const Device& device, CUstream_st* stream) {
  static auto& libraries = *new std::map<int, Library>;
  Library& l = libraries[device.index];
  if (l.handle == nullptr) {
    check(cudnnCreate(&l.handle), "starting");
    check(cudnnSetStream(l.handle, stream), "choosing the stream");
  }
  return l;
}

// `heads` heads side by side in rows of `width` elements.
Tensor_attributes heads_in_rows(const Problem& s, std::int64_t name, std::int64_t heads, std::int64_t width) {
  return Tensor_attributes()
      .set_uid(name)
      .set_data_type(s.type)
      .set_dim({s.batch, heads, s.seq, s.head_dim})
      .set_stride({s.seq * width, s.head_dim, width, 1});
}

Tensor_attributes statistics(const AttentionShape& s) {
  return Tensor_attributes()
      .set_uid(kLse)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim({s.batch, s.heads, s.seq, 1})
      .set_stride({s.heads * s.seq, s.seq, 1, 1});
}

// The same for a tensor that the graph writes.
void describe(const TensorOfGraph& written, const Tensor_attributes& as) {
  written->set_output(true)
      .set_uid(as.get_uid())
      .set_data_type(as.get_data_type())
      .set_dim(as.get_dim())
      .set_stride(as.get_stride());
}

void describe_forward(const Problem& s, Graph& graph) {
  const std::int64_t width = s.qkv_width();
  const auto options = fe::graph::SDPA_attributes()
                           .set_generate_stats(true)
                           .set_attn_scale(1.0F / std::sqrt(static_cast<float>(s.head_dim)))
                           .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                           .set_diagonal_band_right_bound(0);
  const auto [out, lse] = graph.sdpa(graph.tensor(heads_in_rows(s, kQ, s.heads, width)),
                                     graph.tensor(heads_in_rows(s, kK, s.kv_heads, width)),
                                     graph.tensor(heads_in_rows(s, kV, s.kv_heads, width)), options);
  describe(out, heads_in_rows(s, kOut, s.heads, s.heads * s.head_dim));
  describe(lse, statistics(s));
}

void describe_backward(const Problem& s, bool fixed_order, Graph& graph) {
  const std::int64_t width = s.qkv_width();
  const std::int64_t out_width = s.heads * s.head_dim;
  const auto options = fe::graph::SDPA_backward_attributes()
                           .set_attn_scale(1.0F / std::sqrt(static_cast<float>(s.head_dim)))
                           .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                           .set_diagonal_band_right_bound(0)
                           .set_deterministic_algorithm(fixed_order);
  const auto [dq, dk, dv] = graph.sdpa_backward(graph.tensor(heads_in_rows(s, kQ, s.heads, width)),
                                                graph.tensor(heads_in_rows(s, kK, s.kv_heads, width)),
                                                graph.tensor(heads_in_rows(s, kV, s.kv_heads, width)),
                                                graph.tensor(heads_in_rows(s, kOut, s.heads, out_width)),
                                                graph.tensor(heads_in_rows(s, kDout, s.heads, out_width)),
                                                graph.tensor(statistics(s)), options);
  describe(dq, heads_in_rows(s, kDq, s.heads, width));
  describe(dk, heads_in_rows(s, kDk, s.kv_heads, width));
  describe(dv, heads_in_rows(s, kDv, s.kv_heads, width));
}

// The frontend's answer to what it knows cuDNN not to support, and to what turns out to be so.
bool means_no_kernel(fe::error_t error) {
  const auto code = error.get_code();
  return code == fe::error_code_t::GRAPH_NOT_SUPPORTED || code == fe::error_code_t::HEURISTIC_QUERY_FAILED ||
         code == fe::error_code_t::GRAPH_EXECUTION_PLAN_CREATION_FAILED;
}

// For a person who wonders why it is slow; lengths differ, and one line is enough.
void warn_once(const AttentionShape& s, std::string_view reason) {
  static bool warned = false;
  if (std::exchange(warned, true)) return;
  log::warning("cuDNN has no attention for heads of {} on this GPU; slower kernels are used ({})", s.head_dim,
               reason);
}

Entry make_entry(cudnnHandle_t handle, Pass pass, const Problem& s) {
  Entry made;
  auto graph = std::make_unique<Graph>();
  graph->set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
  if (pass == Pass::forward) {
    describe_forward(s, *graph);
  } else {
    describe_backward(s, pass == Pass::backward, *graph);
  }
  fe::error_t built = graph->build(handle, {fe::HeurMode_t::A});
  if (means_no_kernel(built)) {
    warn_once(s, built.get_message());
    return made;
  }
  check(built, "preparing attention");
  std::int64_t workspace = 0;
  check(graph->get_workspace_size(workspace), "preparing attention");
  made.workspace = static_cast<std::size_t>(workspace);
  made.graph = std::move(graph);
  return made;
}

Entry& entry(const Device& device, Library& l, Pass pass, const Problem& s) {
  const Key key{pass, s.type, s.batch, s.seq, s.heads, s.kv_heads, s.head_dim};
  const auto known = l.graphs.find(key);
  if (known != l.graphs.end()) return known->second;
  if (l.graphs.size() >= kMostGraphs) {
    synchronize(device);  // their code may be running
    l.graphs.clear();
  }
  return l.graphs.emplace(key, make_entry(l.handle, pass, s)).first->second;
}

using Pointers = std::unordered_map<std::int64_t, void*>;

void run(const Context& ctx, cudnnHandle_t handle, const Entry& e, Pointers pointers) {
  const ArenaScope scope(ctx.workspace);
  void* workspace = nullptr;
  if (e.workspace > 0) {
    std::size_t space = e.workspace + kWorkspaceAlignment;
    workspace = ctx.workspace.allocate(space);
    std::align(kWorkspaceAlignment, e.workspace, workspace, space);
  }
  XMOE_CHECK(e.graph != nullptr, "cuDNN computes the first sequences of a batch, but not the last");
  check(e.graph->execute(handle, pointers, workspace), "computing attention");
}

// Sequences of one row have no backward there.
bool takes(const AttentionShape& s, std::initializer_list<Tensor> tensors) {
  if (s.batch == 0 || s.seq < 2 || tensors.begin()->dtype() == DType::f32) return false;
  const bool aligned = std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.raw()) % kAccess == 0;
  });
  if (aligned && static_cast<std::size_t>(s.head_dim) * size_of(tensors.begin()->dtype()) % kAccess == 0)
    return true;
  warn_once(s, "heads begin on no 16 bytes; sizes that are multiples of 8 do");
  return false;
}

// Where q, k and v begin in rows of qkv or dqkv.
struct Begins {
  std::uint16_t *q, *k, *v;
  Begins(const AttentionShape& s, const Tensor& rows)
      : q(static_cast<std::uint16_t*>(rows.raw())),
        k(q + s.heads * s.head_dim),
        v(k + s.kv_heads * s.head_dim) {}
};

Problem problem_of(const AttentionShape& s, const Tensor& qkv) {
  return {s, qkv.dtype() == DType::f16 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16};
}

}  // namespace

bool attention_forward(const Context& ctx, CUstream_st* stream, const AttentionShape& shape,
                       const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  if (!takes(shape, {qkv, out})) return false;
  const std::lock_guard lock(mutex());
  Library& l = library(ctx.device(), stream);
  const Entry& e = entry(ctx.device(), l, Pass::forward, problem_of(shape, qkv));
  if (e.graph == nullptr) return false;
  const Begins at(shape, qkv);
  run(ctx, l.handle, e, {{kQ, at.q}, {kK, at.k}, {kV, at.v}, {kOut, out.raw()}, {kLse, lse.raw()}});
  return true;
}

bool attention_backward(const Context& ctx, CUstream_st* stream, const AttentionShape& shape,
                        const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dqkv, Order order) {
  if (!takes(shape, {dout, qkv, out, dqkv})) return false;
  const std::lock_guard lock(mutex());
  Library& l = library(ctx.device(), stream);
  const Pass pass = order == Order::fixed ? Pass::backward : Pass::backward_any_order;
  const std::int64_t side = (shape.seq + kTile - 1) / kTile * kTile;
  const std::int64_t scores = shape.heads * side * side * static_cast<std::int64_t>(size_of(qkv.dtype()));
  Problem group = problem_of(shape, qkv);
  if (order == Order::fixed) group.batch = std::clamp<std::int64_t>(kMostScores / scores, 1, shape.batch);
  if (entry(ctx.device(), l, pass, group).graph == nullptr) return false;
  for (std::int64_t first = 0; first < shape.batch; first += group.batch) {
    group.batch = std::min(group.batch, shape.batch - first);
    const std::int64_t begin = first * shape.seq;
    const std::int64_t end = begin + group.rows();
    const Begins at(shape, qkv.slice(begin, end));
    const Begins gradient(shape, dqkv.slice(begin, end));
    run(ctx, l.handle, entry(ctx.device(), l, pass, group),
        {{kQ, at.q},
         {kK, at.k},
         {kV, at.v},
         {kOut, out.slice(begin, end).raw()},
         {kLse, lse.slice(first, first + group.batch).raw()},
         {kDout, dout.slice(begin, end).raw()},
         {kDq, gradient.q},
         {kDk, gradient.k},
         {kDv, gradient.v}});
  }
  return true;
}

}  // namespace xmoe::cudnn
