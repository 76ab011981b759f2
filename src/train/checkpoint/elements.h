// Elements of a training state as a rank holds them and as a checkpoint stores them. A 16-bit value with its
// remainder (base/split_float.h) is stored as the f32 number that the two are; everything else as it is held.
// Joined and split piece by piece: there is never a second copy of a state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/tensor.h"

namespace xmoe {

struct HeldElements {
  Tensor data;       // on any device
  Tensor remainder;  // i16, as many; undefined: data is all
};

DType stored_dtype(const HeldElements& held);
// Whether elements stored as `stored` can be taken over: those of the same dtype, and any floats as any
// others.
bool can_hold(const HeldElements& held, DType stored);

// Reads elements as they are stored, to the host.
class ElementReader {
 public:
  explicit ElementReader(const HeldElements& held) : held_(held) {}
  // Elements [begin, begin + count); until the next call.
  std::span<const std::byte> read(std::int64_t begin, std::int64_t count);

 private:
  const std::byte* on_host(const Tensor& tensor, std::int64_t begin, std::int64_t count,
                           std::vector<std::byte>& copy) const;

  HeldElements held_;
  std::vector<std::byte> data_, remainder_;  // of a device's memory
  std::vector<float> joined_;
};

// Takes `count` elements over, stored as `stored` at `from` (aligned or not), to element `begin` on of
// `held`, which is in host memory. A number that is held in fewer bits is rounded as a value with remainder
// is.
void take_elements(DType stored, const std::byte* from, const HeldElements& held, std::int64_t begin,
                   std::int64_t count);

}  // namespace xmoe
