#include "train/checkpoint/boxes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace xmoe {

namespace {

// Checked, and so that compilers see it: a recursion over axes ends.
std::size_t at(int axis) {
  XMOE_CHECK(0 <= axis && axis < Shape::kMaxRank, "axis {}", axis);
  return static_cast<std::size_t>(axis);
}

Index row_major(const Shape& shape) {
  Index strides{};
  std::int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[at(axis)] = stride;
    stride *= shape[axis];
  }
  return strides;
}

// A run of the elements of a dense tensor as boxes: the rest of the first row, whole rows, the start of the
// last one, where rows that are not whole are cut in the same way.
void add_run(const Shape& shape, int axis, Index prefix, std::int64_t begin, std::int64_t end,
             std::vector<Box>& boxes) {
  if (begin >= end) return;
  std::int64_t row = 1;  // elements of an entry of this axis
  for (int inner = axis + 1; inner < shape.rank(); ++inner) row *= shape[inner];
  const auto add_rows = [&](std::int64_t first, std::int64_t last) {
    if (first >= last) return;
    Box box{prefix, shape};
    for (int outer = 0; outer < axis; ++outer) box.extent[outer] = 1;
    box.offset[at(axis)] = first;
    box.extent[axis] = last - first;
    boxes.push_back(box);
  };
  const auto add_part = [&](std::int64_t of_row, std::int64_t from, std::int64_t to) {
    Index inside = prefix;
    inside[at(axis)] = of_row;
    add_run(shape, axis + 1, inside, from - of_row * row, to - of_row * row, boxes);
  };
  const std::int64_t first_row = begin / row;
  const std::int64_t first_whole = (begin + row - 1) / row;
  const std::int64_t end_whole = end / row;
  if (first_whole > end_whole) return add_part(first_row, begin, end);  // within one row, off its edges
  if (begin < first_whole * row) add_part(first_row, begin, first_whole * row);
  add_rows(first_whole, end_whole);
  if (end > end_whole * row) add_part(end_whole, end_whole * row, end);
}

// Cuts a box of the local part where it crosses from one range of an axis to the next.
void add_global(const Shape& global, const Sharding& sharding, const PlacedBox& local, int axis,
                PlacedBox so_far, std::vector<PlacedBox>& boxes) {
  if (axis == global.rank()) {
    boxes.push_back(so_far);
    return;
  }
  const std::int64_t begin = local.box.offset[at(axis)];
  const std::int64_t end = begin + local.box.extent[axis];
  const AxisRange all[] = {{0, global[axis]}};
  const auto& listed = sharding.axes[at(axis)];
  const std::span<const AxisRange> ranges = listed.empty() ? std::span<const AxisRange>(all) : listed;
  std::int64_t position = 0;  // in the local part
  for (const AxisRange& range : ranges) {
    const std::int64_t first = std::max(begin, position);
    const std::int64_t last = std::min(end, position + range.size);
    if (first < last) {
      PlacedBox next = so_far;
      next.box.offset[at(axis)] = range.begin + first - position;
      next.box.extent[axis] = last - first;
      next.at += (first - begin) * local.strides[at(axis)];
      add_global(global, sharding, local, axis + 1, next, boxes);
    }
    position += range.size;
  }
}

}  // namespace

Box whole_box(const Shape& shape) { return {{}, shape}; }

std::optional<Box> intersection(const Box& a, const Box& b) {
  Box shared{{}, a.extent};
  for (int axis = 0; axis < a.extent.rank(); ++axis) {
    const std::int64_t begin = std::max(a.offset[at(axis)], b.offset[at(axis)]);
    const std::int64_t end =
        std::min(a.offset[at(axis)] + a.extent[axis], b.offset[at(axis)] + b.extent[axis]);
    if (begin >= end) return std::nullopt;
    shared.offset[at(axis)] = begin;
    shared.extent[axis] = end - begin;
  }
  return shared;
}

std::string name_of_box(const std::string& name, const Box& box, const Shape& global) {
  if (box == whole_box(global)) return name;
  std::string text = name + '[';
  for (int axis = 0; axis < global.rank(); ++axis)
    text += fmt::format("{}{}:{}", axis == 0 ? "" : ",", box.offset[at(axis)],
                        box.offset[at(axis)] + box.extent[axis]);
  return text + ']';
}

std::vector<PlacedBox> boxes_of_run(const Shape& global, const Sharding& sharding, std::int64_t begin,
                                    std::int64_t end) {
  const Shape local = sharding.local_shape(global);
  XMOE_CHECK(0 <= begin && begin <= end && end <= local.numel(), "elements {} to {} of {}", begin, end,
             to_string(local));
  std::vector<Box> runs;
  add_run(local, 0, {}, begin, end, runs);
  const Index strides = row_major(local);
  std::vector<PlacedBox> boxes;
  for (const Box& run : runs) {
    PlacedBox placed{run, -begin, strides};
    for (int axis = 0; axis < local.rank(); ++axis) placed.at += run.offset[at(axis)] * strides[at(axis)];
    add_global(global, sharding, placed, 0, placed, boxes);
  }
  return boxes;
}

PlacedBox part_of(const PlacedBox& whole, const Box& box) {
  PlacedBox part{box, whole.at, whole.strides};
  for (int axis = 0; axis < box.extent.rank(); ++axis)
    part.at += (box.offset[at(axis)] - whole.box.offset[at(axis)]) * whole.strides[at(axis)];
  return part;
}

PlacedBox dense(const Box& box) { return {box, 0, row_major(box.extent)}; }

std::optional<Miscovered> find_miscovered(const Shape& global, std::span<const Box> boxes) {
  // The number of boxes over an element is a step function that the signed corners of the boxes determine: it
  // is the sum of the signs of the corners that do not lie beyond the element along any axis. So the cover is
  // exact if and only if the corners add up to those of the whole tensor, and the first corner at which they
  // do not is the first element that is covered otherwise.
  std::vector<std::pair<Index, int>> corners;
  const int rank = global.rank();
  const auto add = [&](const Box& box, int sign) {
    if (box.extent.numel() == 0) return;
    for (unsigned corner = 0; corner < (1U << static_cast<unsigned>(rank)); ++corner) {
      Index index = box.offset;
      int parity = sign;
      for (int axis = 0; axis < rank; ++axis) {
        if ((corner >> static_cast<unsigned>(axis) & 1U) == 0) continue;
        index[at(axis)] += box.extent[axis];
        parity = -parity;
      }
      corners.emplace_back(index, parity);
    }
  };
  add(whole_box(global), -1);
  for (const Box& box : boxes) add(box, 1);
  std::sort(corners.begin(), corners.end());
  for (std::size_t i = 0; i < corners.size();) {
    const Index& index = corners[i].first;
    int sum = 0;
    for (; i < corners.size() && corners[i].first == index; ++i) sum += corners[i].second;
    if (sum != 0) return Miscovered{index, sum < 0};
  }
  return std::nullopt;
}

std::string to_string(const Index& index, int rank) {
  return to_string(Shape(std::span<const std::int64_t>(index).first(static_cast<std::size_t>(rank))));
}

}  // namespace xmoe
