#include "comm/contract.h"

#include <string>

namespace xmoe::contract {

namespace {

void check_place(const Tensor& tensor, const Device& device) {
  if (device.is_cpu() && !tensor.device().is_cpu())
    fail_not_built("communication of device memory by this group", tensor.device());
  XMOE_CHECK(tensor.device() == device, "a collective of tensors on {} got one on {}", name_of(device),
             name_of(tensor.device()));
}

bool same_rows(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || a.rank() != b.rank() || a.rank() < 1) return false;
  for (int axis = 1; axis < a.rank(); ++axis) {
    if (a.dim(axis) != b.dim(axis)) return false;
  }
  return true;
}

std::string describe(const Tensor& tensor) {
  return fmt::format("{} {}", name_of(tensor.dtype()), to_string(tensor.shape()));
}

void check_rows(const Tensor& whole, const Tensor& part, int size, const char* operation,
                const Device& device) {
  check_place(whole, device);
  check_place(part, device);
  XMOE_CHECK(same_rows(whole, part) && whole.dim(0) == size * part.dim(0),
             "{} among {} ranks: {} is not {} times {}", operation, size, describe(whole), size,
             describe(part));
}

}  // namespace

void check_reducible(const Tensor& values, const Device& device) {
  check_place(values, device);
  const DType dtype = values.dtype();
  XMOE_CHECK(is_float(dtype) || dtype == DType::i64, "a reduction takes f32, bf16, f16 or i64, got {}",
             name_of(dtype));
}

void check_all_gather(const Tensor& input, const Tensor& output, int size, const Device& device) {
  check_rows(output, input, size, "all_gather", device);
}

void check_reduce_scatter(const Tensor& input, const Tensor& output, int size, const Device& device) {
  check_reducible(input, device);
  check_rows(input, output, size, "reduce_scatter", device);
}

void check_all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                        std::span<const std::int64_t> recv_rows, int rank, int size, const Device& device) {
  check_place(send, device);
  check_place(recv, device);
  const auto ranks = static_cast<std::size_t>(size);
  XMOE_CHECK(same_rows(send, recv), "all_to_all_v: rows of {} do not match rows of {}", describe(send),
             describe(recv));
  XMOE_CHECK(send_rows.size() == ranks && recv_rows.size() == ranks,
             "all_to_all_v among {} ranks: {} and {} row counts", size, send_rows.size(), recv_rows.size());
  std::int64_t sent = 0;
  std::int64_t received = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    XMOE_CHECK(send_rows[r] >= 0 && recv_rows[r] >= 0, "all_to_all_v: {} and {} rows for rank {}",
               send_rows[r], recv_rows[r], r);
    sent += send_rows[r];
    received += recv_rows[r];
  }
  XMOE_CHECK(sent == send.dim(0), "all_to_all_v: {} rows to send, the tensor has {}", sent, send.dim(0));
  XMOE_CHECK(received == recv.dim(0), "all_to_all_v: {} rows to receive, the tensor has {}", received,
             recv.dim(0));
  const auto self = static_cast<std::size_t>(rank);
  XMOE_CHECK(send_rows[self] == recv_rows[self],
             "all_to_all_v: rank {} sends {} rows to itself and expects {}", rank, send_rows[self],
             recv_rows[self]);
}

void check_broadcast(const Tensor& values, int root, int size, const Device& device) {
  check_place(values, device);
  XMOE_CHECK(0 <= root && root < size, "root {} of a group of {}", root, size);
}

std::int64_t row_bytes(const Tensor& tensor) {
  auto bytes = static_cast<std::int64_t>(size_of(tensor.dtype()));
  for (int axis = 1; axis < tensor.rank(); ++axis) bytes *= tensor.dim(axis);
  return bytes;
}

}  // namespace xmoe::contract
