// What every backend demands of the arguments of a collective. `device` is where it takes tensors from.
#pragma once

#include <cstdint>
#include <span>

#include "device/tensor.h"

namespace xmoe::contract {

void check_reducible(const Tensor& values, const Device& device = {});  // f32, bf16, f16 or i64
void check_all_gather(const Tensor& input,                              // [n, ...]
                      const Tensor& output,                             // [size * n, ...]
                      int size, const Device& device = {});
void check_reduce_scatter(const Tensor& input, const Tensor& output, int size, const Device& device = {});
void check_all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                        std::span<const std::int64_t> recv_rows, int rank, int size,
                        const Device& device = {});
void check_broadcast(const Tensor& values, int root, int size, const Device& device = {});

// Bytes of one row of the leading dimension, known from the shape even when there are no rows.
std::int64_t row_bytes(const Tensor& tensor);

}  // namespace xmoe::contract
