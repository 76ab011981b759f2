// A small training state for tests of checkpoints, as one rank of an expert-parallel layout holds it: dense
// and expert parameters with their moments, odd sizes, several dtypes. The value of every byte is known from
// the tensor's name, its global position and a seed.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "base/hash.h"
#include "support/shard_elements.h"
#include "train/checkpoint/checkpoint.h"

namespace xmoe::test {

class ModelState {
 public:
  static constexpr std::int64_t kExperts = 8;

  ModelState(int ep_rank, int ep_size, std::uint64_t seed)
      : ep_rank_(ep_rank), ep_size_(ep_size), seed_(seed) {
    for (const std::string suffix : {"", kFirstMomentSuffix, kSecondMomentSuffix}) {
      add("embedding.weight" + suffix, DType::f32, {11, 3}, Replication::all);
      add("layers.0.norm.weight" + suffix, DType::f32, {5}, Replication::all);
      add("layers.1.moe.experts.w1" + suffix, DType::f32, {kExperts, 4, 3}, Replication::expert);
      add("layers.1.moe.experts.w2" + suffix, DType::f32, {3 * kExperts, 7}, Replication::expert);
    }
    add("layers.1.moe.router.counts", DType::i64, {kExperts}, Replication::all);
    add("half", DType::bf16, {3, 1, 1, 3}, Replication::all);
    add("nothing", DType::f32, {0, 4}, Replication::all);
    fill();
  }

  void add(const std::string& name, DType dtype, const Shape& global, Replication replication) {
    Sharding sharding;
    if (replication == Replication::expert)
      sharding.axes[0] = {equal_part({0, global[0]}, ep_rank_, ep_size_)};
    const Shape local = sharding.local_shape(global);
    memory_.emplace_back(static_cast<std::size_t>(local.numel()) * size_of(dtype));
    tensors_.push_back({.name = name,
                        .data = Tensor(memory_.back().data(), dtype, local),
                        .global_shape = global,
                        .sharding = sharding,
                        .replication = replication});
  }

  std::vector<CheckpointTensor>& tensors() { return tensors_; }

  void fill() {
    for (const auto& tensor : tensors_) {
      for (std::size_t i = 0; i < tensor.data.bytes(); ++i) bytes_of(tensor)[i] = expected(tensor, i);
    }
  }
  void wipe() {
    for (const auto& tensor : tensors_)
      std::fill_n(bytes_of(tensor), tensor.data.bytes(), std::uint8_t{0xee});
  }
  bool is_wiped() const {
    return all_of([](const CheckpointTensor&, std::size_t) { return std::uint8_t{0xee}; });
  }
  bool is_filled() const {
    return all_of([this](const CheckpointTensor& tensor, std::size_t i) { return expected(tensor, i); });
  }

 private:
  static std::uint8_t* bytes_of(const CheckpointTensor& tensor) {
    return static_cast<std::uint8_t*>(tensor.data.raw());
  }
  std::uint8_t expected(const CheckpointTensor& tensor, std::size_t byte) const {
    const std::size_t element = size_of(tensor.data.dtype());
    const std::int64_t index =
        global_index(tensor.global_shape, tensor.sharding, static_cast<std::int64_t>(byte / element));
    const std::uint64_t position = static_cast<std::uint64_t>(index) * element + byte % element;
    return static_cast<std::uint8_t>(hash64(&position, sizeof(position), seed_ ^ hash64(tensor.name)));
  }
  template <typename F>
  bool all_of(F&& value) const {
    for (const auto& tensor : tensors_) {
      for (std::size_t i = 0; i < tensor.data.bytes(); ++i) {
        if (bytes_of(tensor)[i] != value(tensor, i)) return false;
      }
    }
    return true;
  }

  int ep_rank_;
  int ep_size_;
  std::uint64_t seed_;
  std::deque<std::vector<std::uint8_t>> memory_;
  std::vector<CheckpointTensor> tensors_;
};

}  // namespace xmoe::test
