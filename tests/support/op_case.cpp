#include "support/op_case.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/parallel.h"
#include "support/devices.h"

namespace xmoe {

DType dtype_of_kind(ElementKind kind, DType compute) {
  switch (kind) {
    case ElementKind::f32:
      return DType::f32;
    case ElementKind::i32:
      return DType::i32;
    case ElementKind::compute:
      break;
  }
  return compute;
}

Fill normal(double deviation, double mean) {
  return [=](const Rng& rng, std::uint64_t i) { return mean + deviation * rng.normal(i); };
}

Fill uniform(double low, double high) {
  return [=](const Rng& rng, std::uint64_t i) { return low + (high - low) * rng.uniform(i); };
}

Fill integers(std::int64_t low, std::int64_t bound) {
  XMOE_CHECK(low < bound, "no integers in [{}, {})", low, bound);
  return [=](const Rng& rng, std::uint64_t i) {
    return static_cast<double>(
        low + static_cast<std::int64_t>(rng.below(i, static_cast<std::uint64_t>(bound - low))));
  };
}

Fill values(std::vector<double> list) {
  XMOE_CHECK(!list.empty(), "no values to fill with");
  return [list = std::move(list)](const Rng&, std::uint64_t i) { return list[i % list.size()]; };
}

void fill_random(const Tensor& tensor, const Fill& fill, const Rng& rng) {
  std::vector<double> numbers(static_cast<std::size_t>(tensor.numel()));
  constexpr std::int64_t kGrain = 1 << 12;  // some 10 microseconds of work
  parallel_for(tensor.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      numbers[i] = fill(rng, i);
  });
  from_doubles(numbers, tensor);
}

namespace {

// All bits set: NaN in floats, -1 in integers. What an op leaves unwritten then shows.
constexpr int kUnwritten = 0xff;
// A vector register of bytes: what a loop that runs over the end would write first.
constexpr std::int64_t kGuardBytes = 64;
constexpr int kGuardByte = 0xa5;

void set_bytes(const Tensor& tensor, int byte) {
  device_fill(tensor.device(), tensor.raw(), byte, tensor.bytes());
}

void copy_bytes(const Tensor& from, const Tensor& to) {
  device_copy(from.device(), from.raw(), to.device(), to.raw(), from.bytes());
}

}  // namespace

Tensor OpRun::guarded(const std::string& name, DType dtype, const Shape& shape) {
  const Tensor unguarded(nullptr, dtype, shape);
  // One piece of memory, so that the guard starts where the tensor ends.
  auto* data =
      static_cast<std::byte*>(tensors_.allocate(unguarded.bytes() + static_cast<std::size_t>(kGuardBytes)));
  const Tensor guard(data + unguarded.bytes(), DType::u8, {kGuardBytes}, tensors_.device());
  set_bytes(guard, kGuardByte);
  guards_.push_back({name, guard});
  const Tensor tensor(data, dtype, shape, tensors_.device());
  set_bytes(tensor, kUnwritten);
  return tensor;
}

OpRun::OpRun(const OpCase& op, DType compute, const Device& device, std::uint64_t seed)
    : op_(op), tensors_(device, MemoryTag::saved), workspace_(device, MemoryTag::workspace) {
  for (const auto& a : op.inputs) {
    in.push_back(guarded(a.name, dtype_of_kind(a.kind, compute), a.shape));
    fill_random(in.back(), a.fill, Rng(seed, a.name));
    const bool has_gradient = op.backward && a.differentiable && a.kind != ElementKind::i32;
    d_in.push_back({});
    initial_gradient.push_back({});
    if (!has_gradient) continue;
    const DType dtype = dtype_of_kind(a.gradient, compute);
    d_in.back() = guarded("d_" + a.name, dtype, a.shape);
    initial_gradient.back() = guarded("first d_" + a.name, dtype, a.shape);
    if (a.gradient_added) fill_random(initial_gradient.back(), normal(), Rng(seed, "d_" + a.name));
    copy_bytes(initial_gradient.back(), d_in.back());
  }
  for (const auto& a : op.outputs) {
    const DType dtype = dtype_of_kind(a.kind, compute);
    out.push_back(guarded(a.name, dtype, a.shape));
    d_out.push_back({});
    if (!op.backward || !a.differentiable || a.kind == ElementKind::i32) continue;
    d_out.back() = guarded("d_" + a.name, dtype, a.shape);
    fill_random(d_out.back(), normal(), Rng(seed, "d_" + a.name));
  }
}

void OpRun::forward() {
  for (const auto& t : out) set_bytes(t, kUnwritten);
  forward_again();
}

void OpRun::backward() {
  for (std::size_t i = 0; i < d_in.size(); ++i) copy_bytes(initial_gradient[i], d_in[i]);
  backward_again();
}

std::string OpRun::overrun() const {
  std::string names;
  for (const auto& guard : guards_) {
    const std::vector<std::byte> bytes = bytes_of(guard.bytes);
    if (std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{kGuardByte}; }))
      names += (names.empty() ? "" : ", ") + guard.name;
  }
  return names;
}

namespace {

std::string label(const OpCase& op, DType compute, std::string_view argument) {
  return fmt::format("{} {} {}", op.name, name_of(compute), argument);
}

Comparison failed(const OpCase& op, DType compute, const std::string& message) {
  return {false, label(op, compute, message)};
}

Doubles to_doubles(const std::vector<Tensor>& tensors) {
  Doubles all;
  for (const auto& t : tensors) all.push_back(t.defined() ? xmoe::to_doubles(t) : std::vector<double>{});
  return all;
}

Doubles call_reference(const OpCase& op, const Doubles& in) {
  Doubles out;
  for (const auto& a : op.outputs) out.emplace_back(static_cast<std::size_t>(a.shape.numel()), 0.0);
  op.reference(in, out);
  return out;
}

// The derivative of <d_out, reference(in)> by element `index` of input `argument`.
double finite_difference(const OpCase& op, Doubles& in, const Doubles& d_out, std::size_t argument,
                         std::size_t index) {
  // Errors of a central difference: step^2 times a third derivative, and the rounding of doubles over the
  // step. They balance near the cube root of 2^-53.
  constexpr double kStep = 5e-6;
  double& x = in[argument][index];
  const double at = x;
  const double step = kStep * std::max(1.0, std::abs(at));
  x = at + step;
  const Doubles above = call_reference(op, in);
  x = at - step;
  const Doubles below = call_reference(op, in);
  x = at;
  double sum = 0.0;
  for (std::size_t o = 0; o < d_out.size(); ++o)
    for (std::size_t i = 0; i < d_out[o].size(); ++i) sum += d_out[o][i] * (above[o][i] - below[o][i]);
  return sum / ((at + step) - (at - step));
}

// Elements whose derivative is taken: all of a small tensor, else the ends and a spread. Fewer where a
// sanitizer looks at what is accessed, and the reference takes its time.
std::vector<std::size_t> sample(std::size_t count) {
#ifdef __SANITIZE_ADDRESS__
  constexpr std::size_t kMost = 16;
#else
  constexpr std::size_t kMost = 48;
#endif
  std::vector<std::size_t> chosen;
  if (count <= kMost) {
    for (std::size_t i = 0; i < count; ++i) chosen.push_back(i);
    return chosen;
  }
  const Rng rng(count, "sample");
  chosen = {0, count - 1};
  for (std::uint64_t i = 0; chosen.size() < kMost; ++i) chosen.push_back(rng.below(i, count));
  return chosen;
}

}  // namespace

Comparison check_forward(const OpCase& op, DType compute, const Device& device) {
  OpRun run(op, compute, device);
  const Doubles before = to_doubles(run.in);
  run.forward();
  if (const std::string names = run.overrun(); !names.empty())
    return failed(op, compute, "forward wrote behind the end of " + names);
  if (to_doubles(run.in) != before) return failed(op, compute, "forward changed its inputs");
  const Doubles expected = call_reference(op, before);
  for (std::size_t o = 0; o < op.outputs.size(); ++o) {
    if (expected[o].empty() && op.outputs[o].shape.numel() > 0) continue;
    const DType stored = run.out[o].dtype();
    const Tolerance tolerance =
        stored == DType::i32
            ? Tolerance{}
            : tolerance_for(stored, op.terms, op.rounds_intermediates ? compute : DType::f32);
    Comparison c = compare(run.out[o], expected[o], tolerance, label(op, compute, op.outputs[o].name));
    if (!c.ok) return c;
  }
  return {};
}

namespace {

// Of a gradient whose addend is rounded before: that is as large as what it is added to, a few units,
// although the two may cancel.
double error_of_addend(const Input& input, DType compute) {
  constexpr double kAddend = 4.0;
  return input.rounds_addend && compute != DType::f32 ? kAddend * unit_roundoff(compute) : 0.0;
}

}  // namespace

Comparison check_backward(const OpCase& op, DType compute, const Device& device) {
  // Finite differences take minutes under sanitizers. The same program takes those of the CPU, which are
  // enough for an emulated GPU.
  if (is_emulated(device)) return check_against_cpu(op, compute, device);
  OpRun run(op, compute, device);
  run.forward();
  const Doubles in = to_doubles(run.in);
  run.backward();
  if (const std::string names = run.overrun(); !names.empty())
    return failed(op, compute, "backward wrote behind the end of " + names);
  if (to_doubles(run.in) != in) return failed(op, compute, "backward changed its inputs");
  const Doubles d_out = to_doubles(run.d_out);
  for (std::size_t a = 0; a < op.inputs.size(); ++a) {
    if (!run.d_in[a].defined()) continue;
    const std::vector<double> gradient = xmoe::to_doubles(run.d_in[a]);
    const std::vector<double> first = xmoe::to_doubles(run.initial_gradient[a]);
    const std::vector<std::size_t> places = sample(gradient.size());
    std::vector<double> actual(places.size());
    std::vector<double> expected(places.size());
    parallel_for(static_cast<std::int64_t>(places.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      Doubles moved = in;
      for (auto n = static_cast<std::size_t>(begin); n < static_cast<std::size_t>(end); ++n) {
        const std::size_t i = places[n];
        actual[n] = gradient[i];
        expected[n] =
            finite_difference(op, moved, d_out, a, i) + (op.inputs[a].gradient_added ? first[i] : 0.0);
      }
    });
    Tolerance tolerance =
        tolerance_for(run.d_in[a].dtype(), op.backward_terms, op.rounds_intermediates ? compute : DType::f32);
    tolerance.absolute += error_of_addend(op.inputs[a], compute);
    constexpr double kDifferenceError = 1e-7;  // of the finite differences themselves
    tolerance.absolute += kDifferenceError;
    Comparison c = compare(actual, expected, tolerance, label(op, compute, "d_" + op.inputs[a].name));
    if (!c.ok) return c;
    for (std::size_t i = 0; i < gradient.size(); ++i)
      if (!std::isfinite(gradient[i]))
        return failed(op, compute, fmt::format("d_{} is not finite at {}", op.inputs[a].name, i));
  }
  return {};
}

namespace {

// All that the two runs wrote; `what` tells them apart.
Comparison compare_runs(const OpCase& op, DType compute, const OpRun& actual, const OpRun& expected,
                        std::string_view what) {
  for (std::size_t o = 0; o < expected.out.size(); ++o) {
    Comparison c = compare_bits(actual.out[o], expected.out[o],
                                label(op, compute, fmt::format("{} {}", op.outputs[o].name, what)));
    if (!c.ok) return c;
  }
  for (std::size_t a = 0; a < expected.d_in.size(); ++a) {
    if (!expected.d_in[a].defined()) continue;
    Comparison c = compare_bits(actual.d_in[a], expected.d_in[a],
                                label(op, compute, fmt::format("d_{} {}", op.inputs[a].name, what)));
    if (!c.ok) return c;
  }
  return {};
}

void call(const OpCase& op, OpRun& run) {
  run.forward();
  if (op.backward) run.backward();
}

}  // namespace

Comparison check_threads(const OpCase& op, DType compute) {
  const int threads = omp_get_max_threads();
  OpRun one(op, compute);
  OpRun three(op, compute);
  omp_set_num_threads(1);
  call(op, one);
  omp_set_num_threads(3);
  call(op, three);
  omp_set_num_threads(threads);
  return compare_runs(op, compute, three, one, "of 3 threads and of 1");
}

Comparison check_repeated(const OpCase& op, DType compute, const Device& device) {
  OpRun once(op, compute, device);
  OpRun again(op, compute, device);
  call(op, once);
  call(op, again);
  return compare_runs(op, compute, again, once, "again");
}

Comparison check_against_cpu(const OpCase& op, DType compute, const Device& device) {
  OpRun on_cpu(op, compute);
  OpRun on_device(op, compute, device);
  const Doubles before = to_doubles(on_device.in);
  call(op, on_cpu);
  call(op, on_device);
  if (const std::string names = on_device.overrun(); !names.empty())
    return failed(op, compute, "wrote behind the end of " + names);
  if (to_doubles(on_device.in) != before) return failed(op, compute, "changed its inputs");
  const auto compared = [&](const Tensor& actual, const Tensor& expected, std::int64_t terms,
                            const std::string& name, double absolute = 0.0) -> Comparison {
    if (!expected.defined()) return {};
    // Both round, each in its order.
    Tolerance tolerance = tolerance_for(expected.dtype(), terms, compute);
    tolerance.relative *= 2.0;
    tolerance.of_rms *= 2.0;
    tolerance.norm *= 2.0;
    tolerance.absolute += absolute;
    return compare(actual, to_doubles(expected), tolerance,
                   label(op, compute, fmt::format("{} of {} and of cpu", name, name_of(device))));
  };
  for (std::size_t o = 0; o < op.outputs.size(); ++o) {
    Comparison c = compared(on_device.out[o], on_cpu.out[o], op.terms, op.outputs[o].name);
    if (!c.ok) return c;
  }
  for (std::size_t a = 0; a < op.inputs.size(); ++a) {
    Comparison c = compared(on_device.d_in[a], on_cpu.d_in[a], op.backward_terms, "d_" + op.inputs[a].name,
                            error_of_addend(op.inputs[a], compute));
    if (!c.ok) return c;
  }
  return {};
}

Comparison check(const OpCase& op, const Device& device) {
  for (const DType compute : kComputeDtypes) {
    Comparison c = check_forward(op, compute, device);
    if (c.ok && op.backward) c = check_backward(op, compute, device);
    if (c.ok) c = device.is_cpu() ? check_threads(op, compute) : check_repeated(op, compute, device);
    if (!c.ok) return c;
  }
  return {};
}

}  // namespace xmoe
