#include "device/tensor.h"

#include <gtest/gtest.h>

#include <array>

namespace xmoe {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape{}.numel(), 0);
  EXPECT_EQ((Shape{3}).numel(), 3);
  EXPECT_EQ((Shape{2, 3, 4, 5}).numel(), 120);
  EXPECT_EQ((Shape{2, 0, 4}).numel(), 0);
  EXPECT_EQ(to_string(Shape{2, 3}), "[2, 3]");
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), InvariantError);
  EXPECT_THROW((Shape{1, -2}), InvariantError);
}

TEST(Shape, EqualityIsOfRankAndDimensions) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE((Shape{2}) == (Shape{2, 1}));
}

TEST(Tensor, ViewsShareMemory) {
  std::array<float, 24> storage{};
  const Tensor t(storage.data(), DType::f32, {4, 3, 2});
  EXPECT_EQ(t.numel(), 24);
  EXPECT_EQ(t.bytes(), 96U);
  const Tensor rows = t.slice(1, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 3, 2}));
  EXPECT_EQ(rows.data<float>(), storage.data() + 6);
  EXPECT_EQ(t.slice(2, 2).numel(), 0);
  EXPECT_EQ(t.slice(4, 4).numel(), 0);
  const Tensor one = t[2];
  EXPECT_EQ(one.shape(), (Shape{3, 2}));
  EXPECT_EQ(one[1].data<float>(), storage.data() + 14);
  EXPECT_EQ(t.reshape({6, 4}).data<float>(), storage.data());
}

TEST(Tensor, HalfWidthElements) {
  std::array<bf16, 6> storage{};
  const Tensor t(storage.data(), DType::bf16, {3, 2});
  EXPECT_EQ(t.bytes(), 12U);
  EXPECT_EQ(t.slice(2, 3).data<bf16>(), storage.data() + 4);
}

TEST(Tensor, EmptyAndUndefined) {
  EXPECT_FALSE(Tensor{}.defined());
  EXPECT_EQ(Tensor{}.numel(), 0);
  const Tensor empty(nullptr, DType::f32, {0, 5});
  EXPECT_TRUE(empty.defined());
  EXPECT_EQ(empty.slice(0, 0).shape(), (Shape{0, 5}));
}

TEST(Tensor, WrongUseIsRefused) {
  std::array<float, 6> storage{};
  const Tensor t(storage.data(), DType::f32, {3, 2});
  EXPECT_THROW(t.data<bf16>(), InvariantError);
  EXPECT_THROW(t.slice(2, 4), InvariantError);
  EXPECT_THROW(t.slice(2, 1), InvariantError);
  EXPECT_THROW(t[3], InvariantError);
  EXPECT_THROW(t[-1], InvariantError);
  EXPECT_THROW(t.reshape({5}), InvariantError);
}

TEST(Tensor, ChecksNameTheArgument) {
  std::array<float, 6> storage{};
  const Tensor t(storage.data(), DType::f32, {3, 2});
  check_shape(t, {3, 2}, "x");
  check_dtype(t, DType::f32, "x");
  try {
    check_shape(t, {2, 3}, "x");
    FAIL() << "another shape was accepted";
  } catch (const InvariantError& e) {
    EXPECT_NE(std::string(e.what()).find("x: expected shape [2, 3], got [3, 2]"), std::string::npos)
        << e.what();
  }
  EXPECT_THROW(check_dtype(t, DType::bf16, "x"), InvariantError);
  EXPECT_NO_THROW(check_device({}, {t, Tensor{}}));
  EXPECT_THROW(check_device({}, {Tensor(nullptr, DType::f32, {2}, {Device::Kind::gpu, 0})}), InvariantError);
}

TEST(Device, NamesAndRefusals) {
  const Device gpu{Device::Kind::gpu, 99};
  EXPECT_EQ(name_of(Device{}), "cpu");
  EXPECT_EQ(name_of(gpu), "gpu:99");
  EXPECT_EQ(why_unusable(Device{}), "");
  EXPECT_NE(why_unusable(gpu), "");
  EXPECT_THROW(device_allocate(gpu, 16), Error);
  EXPECT_THROW(fail_not_built("gemm", gpu), Error);
}

}  // namespace
}  // namespace xmoe
