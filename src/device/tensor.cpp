#include "device/tensor.h"

namespace xmoe {

Shape::Shape(std::span<const std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  XMOE_CHECK(rank_ <= kMaxRank, "a shape has at most {} dimensions, got {}", kMaxRank, rank_);
  int axis = 0;
  for (const auto d : dims) {
    XMOE_CHECK(d >= 0, "dimension {} is negative: {}", axis, d);
    dims_[static_cast<std::size_t>(axis++)] = d;
  }
}

std::int64_t Shape::numel() const {
  if (rank_ == 0) return 0;
  std::int64_t n = 1;
  for (int axis = 0; axis < rank_; ++axis) n *= dims_[static_cast<std::size_t>(axis)];
  return n;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int axis = 0; axis < shape.rank(); ++axis)
    text += fmt::format("{}{}", axis > 0 ? ", " : "", shape[axis]);
  return text + "]";
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  XMOE_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= dim(0), "slice [{}, {}) of shape {}", begin,
             end, to_string(shape_));
  Shape shape = shape_;
  const std::int64_t row = dim(0) == 0 ? 0 : numel() / dim(0);
  shape[0] = end - begin;
  return {static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * row) * size_of(dtype_), dtype_,
          shape, device_};
}

Tensor Tensor::operator[](std::int64_t index) const {
  XMOE_CHECK(rank() >= 2 && index < dim(0), "entry {} of shape {}", index, to_string(shape_));
  const Tensor one = slice(index, index + 1);
  switch (rank()) {
    case 2:
      return one.reshape({dim(1)});
    case 3:
      return one.reshape({dim(1), dim(2)});
    default:
      return one.reshape({dim(1), dim(2), dim(3)});
  }
}

Tensor Tensor::reshape(const Shape& shape) const {
  XMOE_CHECK(shape.numel() == numel(), "cannot view {} as {}", to_string(shape_), to_string(shape));
  return {data_, dtype_, shape, device_};
}

void check_shape(const Tensor& tensor, const Shape& expected, const char* name) {
  XMOE_CHECK(tensor.shape() == expected, "{}: expected shape {}, got {}", name, to_string(expected),
             to_string(tensor.shape()));
}

void check_dtype(const Tensor& tensor, DType expected, const char* name) {
  XMOE_CHECK(tensor.dtype() == expected, "{}: expected {}, got {}", name, name_of(expected),
             name_of(tensor.dtype()));
}

void check_device(const Device& expected, std::initializer_list<Tensor> tensors) {
  for (const Tensor& t : tensors)
    XMOE_CHECK(!t.defined() || t.device() == expected, "a tensor {} of {} in an op on {}",
               to_string(t.shape()), name_of(t.device()), name_of(expected));
}

void copy_across(const Tensor& from, const Tensor& to) {
  check_shape(to, from.shape(), "the copy");
  check_dtype(to, from.dtype(), "the copy");
  device_copy(from.device(), from.raw(), to.device(), to.raw(), from.bytes());
}

}  // namespace xmoe
