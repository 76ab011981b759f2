// Comparison of what an op computed with a double-precision reference. A tensor passes when every element has
//   |actual - expected| <= relative * |expected| + of_rms * rms(expected) + absolute,
// and when the error of the whole, ||actual - expected|| / ||expected||, is below `norm`. What is not finite
// never passes, on either side; nor does the wrong sign on an element that stands out of the absolute terms.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace xmoe {

struct Tolerance {
  double relative = 0.0;
  double of_rms = 0.0;    // for elements that are sums of larger terms
  double norm = 0.0;      // of the whole tensor: errors average out, so it is tighter
  double absolute = 0.0;  // for values that are zero in theory
};

double unit_roundoff(DType dtype);  // largest relative error of one rounding

// Tolerance of an element stored as `stored` that comes from a sum of `terms` products, each of which is
// computed from values that were themselves rounded to `intermediate`.
Tolerance tolerance_for(DType stored, std::int64_t terms = 1, DType intermediate = DType::f32);

struct Comparison {
  bool ok = true;
  std::string message;  // when not ok: what differs, and the worst element
};

Comparison compare(std::span<const double> actual, std::span<const double> expected,
                   const Tolerance& tolerance, std::string_view name);
Comparison compare(const Tensor& actual, std::span<const double> expected, const Tolerance& tolerance,
                   std::string_view name);

// Same dtype, shape and bits; each on any device.
Comparison compare_bits(const Tensor& actual, const Tensor& expected, std::string_view name);

// Of f32, bf16, i16, i32 and i64 tensors on any device.
std::vector<double> to_doubles(const Tensor& tensor);
void from_doubles(std::span<const double> values, const Tensor& tensor);  // rounds

std::vector<std::byte> bytes_of(const Tensor& tensor);  // on any device

}  // namespace xmoe

// For GoogleTest: fails the test with the message of a Comparison.
#define EXPECT_OK(comparison)                                       \
  do {                                                              \
    const ::xmoe::Comparison comparison_result = (comparison);      \
    EXPECT_TRUE(comparison_result.ok) << comparison_result.message; \
  } while (false)
