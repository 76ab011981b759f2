// Checkpoints of the optimizer's state across layouts of tensor, expert and data parallelism and ZeRO.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "base/hash.h"
#include "base/split_float.h"
#include "distributed/support.h"
#include "support/shard_elements.h"
#include "support/sharded_parameters.h"
#include "train/checkpointing.h"

namespace xmoe {
namespace {

using distributed::SharedDirectory;
using distributed::world;
using test::Layout;
using test::ShardedParameters;

// What element `index` of the global tensor `name` is: another in every place, not exact in 16 bits, and
// within what f16 with a remainder holds exactly.
float expected(const std::string& name, std::int64_t index) {
  return 0x1p-14F *
         (static_cast<float>(hash64(&index, sizeof(index), hash64(name)) % 1'000'003) - 500'001.0F);
}

// Calls f(number, what it is to be) and writes back what it left there.
template <typename F>
void for_each_element(const CheckpointTensor& tensor, F&& f) {
  for (std::int64_t i = 0; i < tensor.data.numel(); ++i) {
    float number = 0.0F;
    std::memcpy(&number, ElementReader(tensor.held()).read(i, 1).data(), sizeof(number));
    f(number, expected(tensor.name, global_index(tensor.global_shape, tensor.sharding, tensor.begin + i)));
    take_elements(DType::f32, reinterpret_cast<const std::byte*>(&number), tensor.held(), i, 1);
  }
}

// The parameters and optimizer of one layout.
struct State {
  State(Communicator& ranks, const Layout& layout, DType dtype)
      : mesh(ranks, layout.parallel),
        parameters(mesh, dtype),
        optimizer({}, parameters.set, mesh, layout.zero_stage, /*bucket_elements=*/100) {}

  void fill() {
    for (const auto& tensor : training_tensors(optimizer))
      for_each_element(tensor, [](float& value, float right) { value = right; });
  }
  void expect_filled(const std::string& where) const {
    std::int64_t wrong = 0;
    for (const auto& tensor : training_tensors(optimizer))
      for_each_element(tensor, [&](float value, float right) { wrong += value != right; });
    EXPECT_EQ(wrong, 0) << where << ": masters and moments";
    for (const auto& p : parameters.set.all()) {
      for (std::int64_t i = 0; i < p.value.numel(); ++i) {
        const float right = expected(p.name, global_index(p.global_shape, p.sharding, i));
        with_float(p.value.dtype(), [&]<typename T>(T) {
          const T value = p.value.data<T>()[i];
          if constexpr (std::is_same_v<T, float>)
            wrong += value != right;
          else
            wrong += value.bits != SplitFloat<T>::value(right);
        });
      }
    }
    EXPECT_EQ(wrong, 0) << where << ": values, which other ranks have in part";
  }
  void load(const std::filesystem::path& root) {
    load_training(read_manifest(root), optimizer, /*moments=*/true, mesh.world());
  }

  Mesh mesh;
  ShardedParameters parameters;
  Optimizer optimizer;
};

void save(const std::filesystem::path& root, const Layout& layout, DType dtype) {
  State state(world(), layout, dtype);
  state.fill();
  save_checkpoint(root, 1, training_tensors(state.optimizer), "{}", state.mesh, {});
}

// Dtypes by turns: layouts decide what a rank holds of a tensor, whatever its dtype.
DType dtype_of(std::size_t turn) { return std::array{DType::f32, DType::bf16, DType::f16}[turn % 3]; }

// What a layout saves is the whole state, whatever the layout: one process that reads all of it sees that.
// And every layout reads its part of it. Together every layout loads from every other.
TEST(CheckpointLayouts, EveryOneSavesTheWholeState) {
  const auto alone = make_self_communicator();
  const auto layouts = test::all_layouts(world().size(), 4);
  for (std::size_t i = 0; i < std::max<std::size_t>(3, layouts.size()); ++i) {
    const Layout& layout = layouts[i % layouts.size()];
    const SharedDirectory root;
    save(root.path(), layout, dtype_of(i));
    State whole(*alone, {}, dtype_of(i));
    whole.load(root.path());
    whole.expect_filled("saved by " + to_string(layout));
    world().barrier();
  }
}

TEST(CheckpointLayouts, EveryOneLoadsWhatOthersSave) {
  const auto layouts = test::all_layouts(world().size(), 4);
  // The plainest, and the last: tensor parallelism, TED where there are ranks for it, placed by dp, ZeRO.
  for (const Layout& saved : {layouts.front(), layouts.back()}) {
    const SharedDirectory root;
    save(root.path(), saved, DType::f16);
    for (std::size_t i = 0; i < std::max<std::size_t>(3, layouts.size()); ++i) {
      const Layout& loaded = layouts[i % layouts.size()];
      State state(world(), loaded, dtype_of(i));
      state.load(root.path());
      state.expect_filled("saved by " + to_string(saved) + ", loaded by " + to_string(loaded));
    }
    world().barrier();
  }
}

TEST(CheckpointLayouts, WhatIsWrittenIsSpreadEvenly) {
  for (const Layout& layout : test::all_layouts(world().size(), 4)) {
    const SharedDirectory root;
    const State state(world(), layout, DType::f32);
    save_checkpoint(root.path(), 1, training_tensors(state.optimizer), "{}", state.mesh, {});
    const auto manifest = read_manifest(root.path());
    std::vector<std::int64_t> elements(manifest.shards.size(), 0);
    std::int64_t total = 0;
    std::int64_t largest = 0;
    for (const auto& [name, entry] : manifest.tensors) {
      for (const auto& slice : entry.slices) {
        elements.at(slice.shard) += slice.box.extent.numel();
        largest = std::max(largest, slice.box.extent.numel());
      }
      total += entry.shape.numel();
    }
    const std::int64_t most = *std::max_element(elements.begin(), elements.end());
    EXPECT_EQ(std::accumulate(elements.begin(), elements.end(), std::int64_t{0}), total) << "each once";
    if (layout.zero_stage == 1) {
      // A rank's part of each buffer, whose padding is not written, and the routers' biases.
      std::int64_t own = 2 * 8;
      for (const auto& g : state.parameters.set.groups()) own += 3 * g.values.numel() / g.replicas;
      EXPECT_LE(most, own) << to_string(layout);
    } else {
      // The mean, and one tensor more for each kind of replication.
      EXPECT_LE(most, total / world().size() + kReplications * largest) << to_string(layout);
    }
    world().barrier();
  }
}

TEST(CheckpointLayouts, AnotherModelIsRefusedOnAllRanksAlike) {
  const Layout layout = test::all_layouts(world().size(), 1).back();
  const SharedDirectory root;
  save(root.path(), layout, DType::f32);
  State state(world(), layout, DType::f32);
  auto tensors = training_tensors(state.optimizer);
  tensors.back().global_shape[0] += 1;  // only elements that a rank has would be missed
  std::string message;
  try {
    load_checkpoint(read_manifest(root.path()), tensors, world());
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    message = error.what();
  }
  EXPECT_NE(message.find("final_norm.exp_avg_sq: [7] in the checkpoint, [8] in the model"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace xmoe
