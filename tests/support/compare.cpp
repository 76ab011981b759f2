#include "support/compare.h"

#include <cmath>
#include <cstring>

namespace xmoe {

namespace {

double root_mean_square(std::span<const double> values) {
  double sum = 0.0;
  for (const double v : values) sum += v * v;
  return values.empty() ? 0.0 : std::sqrt(sum / static_cast<double>(values.size()));
}

Comparison different(std::string message) { return {false, std::move(message)}; }

}  // namespace

double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0x1p-24;
    case DType::bf16:
      return 0x1p-8;
    case DType::f16:
      return 0x1p-11;
    default:
      return 0.0;
  }
}

Tolerance tolerance_for(DType stored, std::int64_t terms, DType intermediate) {
  // Errors of a sum grow like the square root of its length. A term goes through a few roundings (products, a
  // square root, a division); eight times the root keeps the largest of millions of elements inside.
  constexpr double kRoundingsPerTerm = 8.0;
  const double summed = kRoundingsPerTerm * std::sqrt(static_cast<double>(std::max<std::int64_t>(1, terms))) *
                        unit_roundoff(DType::f32);
  // A rounded intermediate errs by its unit at most, and few of them meet in one element.
  const double rounded = intermediate == DType::f32 ? 0.0 : 4.0 * unit_roundoff(intermediate);
  const double stored_unit = unit_roundoff(stored);
  // Half a step of f16 below its normal range: what must be 0 still must be.
  const double subnormal = stored == DType::f16 ? 0x1p-25 : 0.0;
  return {.relative = 1.5 * stored_unit + summed + rounded,
          .of_rms = summed + rounded,
          .norm = stored_unit + summed + rounded / 2.0,
          .absolute = subnormal};
}

Comparison compare(std::span<const double> actual, std::span<const double> expected,
                   const Tolerance& tolerance, std::string_view name) {
  if (actual.size() != expected.size())
    return different(fmt::format("{}: {} elements, expected {}", name, actual.size(), expected.size()));
  const double floor = tolerance.of_rms * root_mean_square(expected) + tolerance.absolute;
  double worst = -1.0;
  std::size_t worst_at = 0;
  std::size_t failures = 0;
  double error_squares = 0.0;
  double expected_squares = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i];
    const double e = expected[i];
    const double error = std::abs(a - e);
    const double allowed = floor + tolerance.relative * std::abs(e);
    const bool finite = std::isfinite(a) && std::isfinite(e);
    const bool wrong_sign = a * e < 0.0 && std::abs(e) > floor;
    const bool passes = finite && !wrong_sign && error <= allowed;
    // How many times too large; an error where none is allowed, or one that is no number, is the worst of
    // all.
    double badness = allowed > 0.0 ? error / allowed : (error > 0.0 ? HUGE_VAL : 0.0);
    if (!finite || wrong_sign) badness = HUGE_VAL;
    if (badness > worst) {
      worst = badness;
      worst_at = i;
    }
    failures += passes ? 0 : 1;
    error_squares += error * error;
    expected_squares += e * e;
  }
  const auto worst_element = [&] {
    return fmt::format("worst at {}: got {:.9g}, expected {:.9g}, error {:.3g}, allowed {:.3g}", worst_at,
                       actual[worst_at], expected[worst_at], std::abs(actual[worst_at] - expected[worst_at]),
                       floor + tolerance.relative * std::abs(expected[worst_at]));
  };
  if (failures > 0)
    return different(
        fmt::format("{}: {} of {} elements differ; {}", name, failures, expected.size(), worst_element()));
  const double elements = static_cast<double>(expected.size());
  const double norm_allowed =
      tolerance.norm * std::sqrt(expected_squares) + tolerance.absolute * std::sqrt(elements);
  if (!(std::sqrt(error_squares) <= norm_allowed))
    return different(fmt::format("{}: norm of the error {:.3g}, allowed {:.3g} at a norm of {:.3g}; {}", name,
                                 std::sqrt(error_squares), norm_allowed, std::sqrt(expected_squares),
                                 worst_element()));
  return {};
}

Comparison compare(const Tensor& actual, std::span<const double> expected, const Tolerance& tolerance,
                   std::string_view name) {
  return compare(to_doubles(actual), expected, tolerance, name);
}

Comparison compare_bits(const Tensor& actual, const Tensor& expected, std::string_view name) {
  if (actual.dtype() != expected.dtype() || !(actual.shape() == expected.shape()))
    return different(fmt::format("{}: {} {}, expected {} {}", name, name_of(actual.dtype()),
                                 to_string(actual.shape()), name_of(expected.dtype()),
                                 to_string(expected.shape())));
  const std::size_t size = size_of(actual.dtype());
  const std::vector<std::byte> a = bytes_of(actual);
  const std::vector<std::byte> e = bytes_of(expected);
  for (std::size_t i = 0; i < a.size(); i += size)
    if (std::memcmp(a.data() + i, e.data() + i, size) != 0)
      return different(
          fmt::format("{}: bits differ first at element {} of {}", name, i / size, actual.numel()));
  return {};
}

std::vector<std::byte> bytes_of(const Tensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes());
  device_copy(tensor.device(), tensor.raw(), {}, bytes.data(), bytes.size());
  return bytes;
}

std::vector<double> to_doubles(const Tensor& tensor) {
  if (!tensor.device().is_cpu()) {
    std::vector<std::byte> bytes = bytes_of(tensor);
    return to_doubles(Tensor(bytes.data(), tensor.dtype(), tensor.shape()));
  }
  std::vector<double> values(static_cast<std::size_t>(tensor.numel()));
  const auto read = [&]<typename T>(const T* data) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>)
        values[i] = static_cast<double>(static_cast<float>(data[i]));
      else
        values[i] = static_cast<double>(data[i]);
    }
  };
  switch (tensor.dtype()) {
    case DType::i16:
      read(tensor.data<std::int16_t>());
      break;
    case DType::i32:
      read(tensor.data<std::int32_t>());
      break;
    case DType::i64:
      read(tensor.data<std::int64_t>());
      break;
    default:
      with_float(tensor.dtype(), [&]<typename T>(T) { read(tensor.data<T>()); });
  }
  return values;
}

void from_doubles(std::span<const double> values, const Tensor& tensor) {
  XMOE_CHECK(static_cast<std::int64_t>(values.size()) == tensor.numel(), "{} values for a tensor of {}",
             values.size(), tensor.numel());
  if (!tensor.device().is_cpu()) {
    std::vector<std::byte> bytes(tensor.bytes());
    from_doubles(values, Tensor(bytes.data(), tensor.dtype(), tensor.shape()));
    device_copy({}, bytes.data(), tensor.device(), tensor.raw(), bytes.size());
    return;
  }
  const auto write = [&]<typename T>(T* data) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>)
        data[i] = T(static_cast<float>(values[i]));
      else
        data[i] = static_cast<T>(values[i]);
    }
  };
  switch (tensor.dtype()) {
    case DType::i16:
      write(tensor.data<std::int16_t>());
      break;
    case DType::i32:
      write(tensor.data<std::int32_t>());
      break;
    case DType::i64:
      write(tensor.data<std::int64_t>());
      break;
    default:
      with_float(tensor.dtype(), [&]<typename T>(T) { write(tensor.data<T>()); });
  }
}

}  // namespace xmoe
