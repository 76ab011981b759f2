// Tensor: a view of contiguous row-major memory with a dtype, at most four dimensions, and a device. It owns
// nothing and is cheap to copy; memory comes from an Arena. Constness is shallow, as with std::span.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/dtype.h"
#include "base/error.h"
#include "device/device.h"

namespace xmoe {

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return dims_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return dims_[static_cast<std::size_t>(axis)]; }
  std::int64_t numel() const;
  bool operator==(const Shape&) const = default;

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

std::string to_string(const Shape& shape);  // "[2, 3]"

class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, const Shape& shape, Device device = {})
      : data_(data), shape_(shape), dtype_(dtype), device_(device) {}

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const Device& device() const { return device_; }
  std::int64_t dim(int axis) const { return shape_[axis]; }
  int rank() const { return shape_.rank(); }
  std::int64_t numel() const { return shape_.numel(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype_); }
  bool defined() const { return shape_.rank() > 0; }

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    XMOE_CHECK(dtype_ == dtype_of<T>::value, "tensor is {}, asked for {}", name_of(dtype_),
               name_of(dtype_of<T>::value));
    return static_cast<T*>(data_);
  }

  Tensor slice(std::int64_t begin, std::int64_t end) const;  // [begin, end) of the leading dimension
  Tensor operator[](std::int64_t index) const;  // one entry of the leading dimension, which is dropped
  Tensor reshape(const Shape& shape) const;     // same elements

 private:
  void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
};

// Checks of an op's arguments; `name` is the argument's name in the op's header.
void check_shape(const Tensor& tensor, const Shape& expected, const char* name);
void check_dtype(const Tensor& tensor, DType expected, const char* name);
void check_device(const Device& expected, std::initializer_list<Tensor> tensors);  // undefined ones pass

// Of one dtype and shape, between any two devices; waits as device_copy does.
void copy_across(const Tensor& from, const Tensor& to);

}  // namespace xmoe
