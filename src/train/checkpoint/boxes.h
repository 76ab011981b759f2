// Parts of a tensor that is cut over ranks, as boxes: along every axis one range. What a rank holds of a
// tensor (a Sharding, several ranges per axis) or, with ZeRO, a flat run of that, falls into a few boxes; and
// boxes of any two layouts intersect in boxes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/parameter.h"

namespace xmoe {

using Index = std::array<std::int64_t, Shape::kMaxRank>;  // entries beyond the tensor's rank are 0

// Elements [offset, offset + extent) along each axis.
struct Box {
  Index offset{};
  Shape extent;

  bool operator==(const Box&) const = default;
};
Box whole_box(const Shape& shape);
std::optional<Box> intersection(const Box& a, const Box& b);  // nothing when they share no element

// A tensor's name with the box of it that is meant, as Python would slice it: "w[0:4,16:24]"; the name alone
// for the whole tensor.
std::string name_of_box(const std::string& name, const Box& box, const Shape& global);

// Where a box lies in memory.
struct PlacedBox {
  Box box;              // of the global tensor
  std::int64_t at = 0;  // its first element, counted from the start of the memory
  Index strides{};      // in elements
};

// Elements [begin, end) of the part of a tensor that `sharding` gives a rank, where memory starts with
// element `begin`. At most 2 n - 1 boxes of the part for n axes, times the number of ranges along each axis.
std::vector<PlacedBox> boxes_of_run(const Shape& global, const Sharding& sharding, std::int64_t begin,
                                    std::int64_t end);

// The part of `whole` that is `box`, which lies within it.
PlacedBox part_of(const PlacedBox& whole, const Box& box);
// A box that fills its memory, row-major.
PlacedBox dense(const Box& box);

// Two places of the same box: calls f(offset in the first, offset in the second, elements), in row-major
// order, for every stretch that is contiguous in both.
template <typename F>
void for_each_stretch(const PlacedBox& a, const PlacedBox& b, F&& f);

// Whether the boxes, each within the tensor, hold every element once. Otherwise the first element, in
// row-major order, that none holds or several do.
struct Miscovered {
  Index element{};
  bool missing = false;
};
std::optional<Miscovered> find_miscovered(const Shape& global, std::span<const Box> boxes);
std::string to_string(const Index& index, int rank);  // "[2, 3]"

template <typename F>
void for_each_stretch(const PlacedBox& a, const PlacedBox& b, F&& f) {
  const Shape& extent = a.box.extent;
  XMOE_CHECK(extent == b.box.extent, "boxes of {} and {}", to_string(extent), to_string(b.box.extent));
  if (extent.numel() == 0) return;
  const auto i = [](int axis) { return static_cast<std::size_t>(axis); };
  // Axes from `outer` on are contiguous together.
  int outer = extent.rank();
  std::int64_t length = 1;
  while (outer > 0 &&
         (extent[outer - 1] == 1 || (a.strides[i(outer - 1)] == length && b.strides[i(outer - 1)] == length)))
    length *= extent[--outer];
  Index at{};
  for (;;) {
    std::int64_t in_a = a.at;
    std::int64_t in_b = b.at;
    for (int axis = 0; axis < outer; ++axis) {
      in_a += at[i(axis)] * a.strides[i(axis)];
      in_b += at[i(axis)] * b.strides[i(axis)];
    }
    f(in_a, in_b, length);
    int axis = outer - 1;
    while (axis >= 0 && ++at[i(axis)] == extent[axis]) at[i(axis--)] = 0;
    if (axis < 0) return;
  }
}

}  // namespace xmoe
