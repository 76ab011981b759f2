#include "comm/communicator.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace xmoe {

namespace {

// One 64-bit value of every rank, in order of rank. `ranks` is the group's size.
std::vector<std::int64_t> gather_values(Communicator& group, std::int64_t value) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(group.size()));
  group.all_gather(Tensor(&value, DType::i64, {1}), Tensor(values.data(), DType::i64, {group.size()}));
  return values;
}

template <typename T>
T reduce_in_order(const std::vector<T>& values, ReduceOp op) {
  T result = values.front();
  for (std::size_t r = 1; r < values.size(); ++r) {
    const T next = values[r];
    switch (op) {
      case ReduceOp::sum:
        result += next;
        break;
      // A NaN wins, as in reduce_parts.
      case ReduceOp::max:
        result = next > result || next != next ? next : result;
        break;
      case ReduceOp::min:
        result = next < result || next != next ? next : result;
        break;
    }
  }
  return result;
}

}  // namespace

double Communicator::all_reduce(double value, ReduceOp op) {
  const auto bits = gather_values(*this, std::bit_cast<std::int64_t>(value));
  std::vector<double> values(bits.size());
  std::transform(bits.begin(), bits.end(), values.begin(), [](auto b) { return std::bit_cast<double>(b); });
  return reduce_in_order(values, op);
}

std::int64_t Communicator::all_reduce(std::int64_t value, ReduceOp op) {
  return reduce_in_order(gather_values(*this, value), op);
}

std::vector<std::string> Communicator::all_gather_text(const std::string& text) {
  const auto lengths = gather_values(*this, static_cast<std::int64_t>(text.size()));
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string mine = text;
  mine.resize(static_cast<std::size_t>(longest));
  std::string all(static_cast<std::size_t>(longest * size()), '\0');
  all_gather(Tensor(mine.data(), DType::u8, {longest}), Tensor(all.data(), DType::u8, {longest * size()}));
  std::vector<std::string> texts;
  texts.reserve(lengths.size());
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    texts.push_back(all.substr(r * static_cast<std::size_t>(longest), static_cast<std::size_t>(lengths[r])));
  }
  return texts;
}

}  // namespace xmoe
