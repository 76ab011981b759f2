#include "ops/attention/attention.h"

#include "device/gpu_built.h"
#include "ops/attention/attention_cpu.h"
#include "ops/attention/attention_gpu.h"

namespace xmoe {

namespace {

void check_heads(const AttentionShape& shape) {
  XMOE_CHECK(
      shape.batch >= 0 && shape.seq >= 0 && shape.heads >= 1 && shape.kv_heads >= 1 && shape.head_dim >= 1,
      "attention over batch {}, sequence {}, heads {}, kv heads {}, head size {}", shape.batch, shape.seq,
      shape.heads, shape.kv_heads, shape.head_dim);
  XMOE_CHECK(shape.heads % shape.kv_heads == 0, "{} heads cannot share {} kv heads evenly", shape.heads,
             shape.kv_heads);
}

void check_float(const Tensor& t, const char* name) {
  XMOE_CHECK(is_float(t.dtype()), "{}: expected f32, bf16 or f16, got {}", name, name_of(t.dtype()));
}

void check_kept(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  check_heads(shape);
  check_float(qkv, "qkv");
  check_shape(qkv, {shape.rows(), shape.qkv_width()}, "qkv");
  check_shape(out, {shape.rows(), shape.heads * shape.head_dim}, "out");
  check_dtype(out, qkv.dtype(), "out");
  check_shape(lse, {shape.batch, shape.heads, shape.seq}, "lse");
  check_dtype(lse, DType::f32, "lse");
}

}  // namespace

void attention_forward(const Context& ctx, const AttentionShape& shape, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse) {
  check_kept(shape, qkv, out, lse);
  if (ctx.device().is_cpu()) return cpu::attention_forward(ctx, shape, qkv, out, lse);
  if constexpr (kGpuBuilt) return gpu::attention_forward(ctx, shape, qkv, out, lse);
  fail_not_built("attention_forward", ctx.device());
}

void attention_backward(const Context& ctx, const AttentionShape& shape, const Tensor& dout,
                        const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  check_kept(shape, qkv, out, lse);
  check_shape(dout, out.shape(), "dout");
  check_dtype(dout, qkv.dtype(), "dout");
  check_shape(dqkv, qkv.shape(), "dqkv");
  check_dtype(dqkv, qkv.dtype(), "dqkv");
  if (ctx.device().is_cpu()) return cpu::attention_backward(ctx, shape, dout, qkv, out, lse, dqkv);
  if constexpr (kGpuBuilt) return gpu::attention_backward(ctx, shape, dout, qkv, out, lse, dqkv);
  fail_not_built("attention_backward", ctx.device());
}

void attention_decode(const Context& ctx, const AttentionShape& shape, std::int64_t length, const Tensor& q,
                      const Tensor& keys, const Tensor& values, const Tensor& out) {
  check_heads(shape);
  XMOE_CHECK(1 <= length && length <= shape.seq, "attention to {} positions of a cache that holds {}", length,
             shape.seq);
  check_float(q, "q");
  check_shape(q, {shape.batch, shape.heads * shape.head_dim}, "q");
  const Shape cache{shape.batch, shape.seq, shape.kv_heads * shape.head_dim};
  check_shape(keys, cache, "keys");
  check_dtype(keys, q.dtype(), "keys");
  check_shape(values, cache, "values");
  check_dtype(values, q.dtype(), "values");
  check_shape(out, q.shape(), "out");
  check_dtype(out, q.dtype(), "out");
  if (ctx.device().is_cpu()) return cpu::attention_decode(ctx, shape, length, q, keys, values, out);
  if constexpr (kGpuBuilt) return gpu::attention_decode(ctx, shape, length, q, keys, values, out);
  fail_not_built("attention_decode", ctx.device());
}

}  // namespace xmoe
