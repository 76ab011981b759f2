// A case of an op: arguments, a plain double-precision reference, and how the op is called. One case object
// drives the comparison with the reference (in every floating-point dtype, on the CPU and on a GPU), the
// check of the gradient against finite differences of the reference, the check that threads and repetition do
// not change a bit, and the benchmark.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "device/arena.h"
#include "device/context.h"
#include "support/compare.h"

namespace xmoe {

// The dtypes that a case is run in.
inline constexpr std::array kComputeDtypes = {DType::f32, DType::bf16, DType::f16};

// compute: that dtype.
enum class ElementKind : std::uint8_t { compute, f32, i32 };
DType dtype_of_kind(ElementKind kind, DType compute);

using Fill = std::function<double(const Rng& rng, std::uint64_t index)>;
Fill normal(double deviation = 1.0, double mean = 0.0);
Fill uniform(double low, double high);
Fill integers(std::int64_t low, std::int64_t bound);  // in [low, bound)
Fill values(std::vector<double> list);                // repeated as needed

void fill_random(const Tensor& tensor, const Fill& fill, const Rng& rng);

struct Input {
  std::string name;
  Shape shape;
  ElementKind kind = ElementKind::compute;
  Fill fill = normal();
  bool differentiable = true;
  ElementKind gradient = ElementKind::compute;
  bool gradient_added = false;  // backward adds to what the gradient holds
  bool rounds_addend = false;   // and may round what it adds to the gradient's dtype before
};

struct Output {
  std::string name;
  Shape shape;
  ElementKind kind = ElementKind::compute;
  bool differentiable = true;
};

using Doubles = std::vector<std::vector<double>>;  // one vector per argument
using Tensors = std::span<const Tensor>;           // undefined where there is none

struct OpCase {
  std::string name;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::int64_t terms = 1;             // longest sum in an output
  std::int64_t backward_terms = 1;    // longest sum in a gradient
  bool rounds_intermediates = false;  // values between input and output are stored in the compute dtype

  // Outputs come sized and zeroed; one that is cleared is not compared.
  std::function<void(const Doubles& in, Doubles& out)> reference;
  std::function<void(const Context&, Tensors in, Tensors out)> forward;
  // `out` holds what forward left there. Without backward there is no gradient to check.
  std::function<void(const Context&, Tensors in, Tensors out, Tensors d_out, Tensors d_in)> backward;

  // For the benchmark. Bytes are those that must move through memory once; 0 stands for all arguments.
  double forward_flops = 0.0;
  double backward_flops = 0.0;
  std::function<double(DType compute)> forward_bytes;
  std::function<double(DType compute)> backward_bytes;
};

// The arguments of a case in memory, and calls of the op on them.
class OpRun {
 public:
  OpRun(const OpCase& op, DType compute, const Device& device = {}, std::uint64_t seed = 1);

  void forward();   // fills the outputs, which hold NaN (or -1) before
  void backward();  // after forward; sets the gradients back to what they held first

  // For timing: the call alone.
  void forward_again() { op_.forward(context_, in, out); }
  void backward_again() { op_.backward(context_, in, out, d_out, d_in); }

  std::string overrun() const;  // names the arguments behind whose end something was written; else empty
  const Context& context() const { return context_; }

  std::vector<Tensor> in, out, d_out, d_in;
  std::vector<Tensor> initial_gradient;  // what d_in held before backward

 private:
  struct Guard {
    std::string name;
    Tensor bytes;
  };
  Tensor guarded(const std::string& name, DType dtype, const Shape& shape);

  const OpCase& op_;
  Arena tensors_;
  Arena workspace_;
  Context context_{workspace_};
  std::vector<Guard> guards_;
};

// The checks; each names the case, the dtype and the argument that fails.
Comparison check_forward(const OpCase& op, DType compute, const Device& device = {});
Comparison check_backward(const OpCase& op, DType compute, const Device& device = {});
Comparison check_threads(const OpCase& op, DType compute);  // 1 and 3 threads, bit for bit
Comparison check_repeated(const OpCase& op, DType compute, const Device& device);  // twice, bit for bit
// The outputs and gradients of both devices, for sizes at which finite differences would take too long.
Comparison check_against_cpu(const OpCase& op, DType compute, const Device& device);
// All of them, in all of kComputeDtypes: on the CPU threads are varied, on a GPU the run is repeated.
Comparison check(const OpCase& op, const Device& device = {});

}  // namespace xmoe
