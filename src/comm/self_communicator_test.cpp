#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "comm/communicator.h"
#include "comm/mesh.h"

namespace xmoe {
namespace {

TEST(SelfCommunicator, EveryCollectiveIsACopy) {
  const auto group = make_self_communicator("alone");
  EXPECT_EQ(group->rank(), 0);
  EXPECT_EQ(group->size(), 1);
  EXPECT_EQ(group->name(), "alone");
  std::vector<float> a = {1, 2, 3, 4};
  std::vector<float> b(4);
  const Tensor input(a.data(), DType::f32, {2, 2});
  const Tensor output(b.data(), DType::f32, {2, 2});
  group->all_reduce(input, ReduceOp::sum);
  group->broadcast(input, 0);
  EXPECT_EQ(a, (std::vector<float>{1, 2, 3, 4}));
  group->all_gather(input, output);
  EXPECT_EQ(a, b);
  b.assign(4, 0);
  group->reduce_scatter(input, output);
  EXPECT_EQ(a, b);
  b.assign(4, 0);
  const std::array<std::int64_t, 1> rows = {2};
  group->all_to_all_v(input, rows, output, rows);
  EXPECT_EQ(a, b);
  group->barrier();
  EXPECT_EQ(group->traffic().calls, 6);
  EXPECT_EQ(group->traffic().bytes_sent, 0);
}

TEST(SelfCommunicator, Conveniences) {
  const auto group = make_self_communicator();
  EXPECT_EQ(group->all_reduce(2.5, ReduceOp::sum), 2.5);
  EXPECT_EQ(group->all_reduce(std::int64_t{-7}, ReduceOp::max), -7);
  EXPECT_EQ(group->all_gather_text("one"), std::vector<std::string>{"one"});
  EXPECT_EQ(group->all_gather_text(""), std::vector<std::string>{""});
}

TEST(SelfCommunicator, RefusesWhatNoBackendTakes) {
  const auto group = make_self_communicator();
  std::vector<float> a(6);
  const Tensor tensor(a.data(), DType::f32, {3, 2});
  EXPECT_THROW(group->all_reduce(Tensor(a.data(), DType::u8, {3}), ReduceOp::sum), InvariantError);
  EXPECT_THROW(group->all_gather(tensor, tensor.slice(0, 2)), InvariantError);
  EXPECT_THROW(group->broadcast(tensor, 1), InvariantError);
  const std::array<std::int64_t, 1> two = {2};
  const std::array<std::int64_t, 1> three = {3};
  EXPECT_THROW(group->all_to_all_v(tensor, two, tensor, two), InvariantError);
  EXPECT_THROW(group->all_to_all_v(tensor, three, tensor.slice(0, 2), two), InvariantError);
  EXPECT_THROW(group->all_to_all_v(tensor, {}, tensor, {}), InvariantError);
  EXPECT_THROW(group->all_to_all_v(tensor, three, tensor.reshape({3, 2, 1}), three), InvariantError);
  const Tensor on_gpu(a.data(), DType::f32, {3}, Device{Device::Kind::gpu, 0});
  EXPECT_THROW(group->all_reduce(on_gpu, ReduceOp::sum), Error);
}

TEST(Mesh, OfOneRank) {
  const auto world = make_self_communicator();
  const Mesh mesh(*world, 1);
  EXPECT_EQ(mesh.ep().size(), 1);
  EXPECT_EQ(mesh.edp().size(), 1);
  EXPECT_EQ(mesh.ep().name(), "ep");
  EXPECT_THROW(Mesh(*world, 2), Error);
  EXPECT_THROW(Mesh(*world, 0), Error);
}

}  // namespace
}  // namespace xmoe
