#include "train/checkpoint/elements.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/split_float.h"

namespace xmoe {

namespace {

template <typename T>
T* elements(const Tensor& tensor, std::int64_t begin) {
  return tensor.data<T>() + begin;
}

template <typename T>
T element(const std::byte* from, std::int64_t index) {
  T held;
  std::memcpy(&held, from + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return held;
}

}  // namespace

DType stored_dtype(const HeldElements& held) {
  return held.remainder.defined() ? DType::f32 : held.data.dtype();
}

bool can_hold(const HeldElements& held, DType stored) {
  return stored == stored_dtype(held) || (is_float(stored) && is_float(held.data.dtype()));
}

const std::byte* ElementReader::on_host(const Tensor& tensor, std::int64_t begin, std::int64_t count,
                                        std::vector<std::byte>& copy) const {
  const std::size_t element = size_of(tensor.dtype());
  const auto* from = static_cast<const std::byte*>(tensor.raw()) + static_cast<std::size_t>(begin) * element;
  if (tensor.device().is_cpu()) return from;
  copy.resize(static_cast<std::size_t>(count) * element);
  device_copy(tensor.device(), from, {}, copy.data(), copy.size());
  return copy.data();
}

std::span<const std::byte> ElementReader::read(std::int64_t begin, std::int64_t count) {
  const std::byte* data = on_host(held_.data, begin, count, data_);
  if (!held_.remainder.defined())
    return {data, static_cast<std::size_t>(count) * size_of(held_.data.dtype())};
  const std::byte* remainder = on_host(held_.remainder, begin, count, remainder_);
  joined_.resize(static_cast<std::size_t>(count));
  const auto join = [&]<typename T>(T) {
    for (std::int64_t i = 0; i < count; ++i)
      joined_[static_cast<std::size_t>(i)] =
          SplitFloat<T>::join(element<std::uint16_t>(data, i), element<std::int16_t>(remainder, i));
  };
  with_half({held_.data.dtype()}, join);
  return std::as_bytes(std::span(joined_));
}

void take_elements(DType stored, const std::byte* from, const HeldElements& held, std::int64_t begin,
                   std::int64_t count) {
  const Tensor& data = held.data;
  XMOE_CHECK(can_hold(held, stored), "{} cannot be held as {}", name_of(stored), name_of(data.dtype()));
  auto* low = held.remainder.defined() ? elements<std::int16_t>(held.remainder, begin) : nullptr;
  if (stored == data.dtype()) {
    const std::size_t element = size_of(stored);
    std::memcpy(static_cast<std::byte*>(data.raw()) + static_cast<std::size_t>(begin) * element, from,
                static_cast<std::size_t>(count) * element);
    if (low != nullptr) std::fill_n(low, count, std::int16_t{0});
    return;
  }
  with_float(stored, [&]<typename From>(From) {
    with_float(data.dtype(), [&]<typename To>(To) {
      auto* to = elements<To>(data, begin);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto number = static_cast<float>(element<From>(from, i));
        if constexpr (std::is_same_v<To, float>) {
          to[i] = number;
        } else {
          to[i].bits = SplitFloat<To>::value(number);
          if (low != nullptr) low[i] = SplitFloat<To>::remainder(number);
        }
      }
    });
  });
}

}  // namespace xmoe
