#include "device/device.h"

#include <gtest/gtest.h>

#include <string>

#include "device/device_gpu.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(DeviceMemory);

TEST_P(DeviceMemory, FillsAndCopies) {
  Arena arena(device(), MemoryTag::workspace);
  const Tensor a = arena.tensor(DType::i32, {1001});
  const Tensor b = arena.tensor(DType::i32, {1001});
  std::vector<double> numbers(1001);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i) - 7.0;
  from_doubles(numbers, a);
  device_fill(device(), b.raw(), 0xff, b.bytes());
  EXPECT_EQ(to_doubles(b), std::vector<double>(1001, -1.0));
  device_copy(device(), a.raw(), device(), b.raw(), 4 * 1000);
  numbers.back() = -1.0;
  EXPECT_EQ(to_doubles(b), numbers);
}

TEST_P(DeviceMemory, ArenaGivesZeros) {
  Arena arena(device(), MemoryTag::workspace);
  const Tensor used = arena.tensor(DType::f32, {3, 70});
  device_fill(device(), used.raw(), 0xff, used.bytes());
  arena.clear();
  EXPECT_EQ(to_doubles(arena.zeros(DType::f32, {3, 70})), std::vector<double>(210, 0.0));
  EXPECT_EQ(arena.zeros(DType::f32, {0, 4}).numel(), 0);
}

XMOE_GPU_SUITE(GpuMemory);

TEST_P(GpuMemory, OutOfMemorySaysWhatWasAsked) {
  Arena arena(device(), MemoryTag::optimizer);
  try {
    arena.allocate(std::size_t{1} << 45);
    FAIL() << "32 TiB were given";
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("32768.00 GiB were asked for, for optimizer"), std::string::npos) << message;
    EXPECT_NE(message.find("GiB are free"), std::string::npos) << message;
  }
  EXPECT_EQ(to_doubles(arena.zeros(DType::f32, {3})), std::vector<double>(3, 0.0));  // the device lives on
}

// The words for every reason, without a machine that has it.
TEST(GpuFacts, SayWhyAGpuCannotBeUsed) {
  const gpu::Facts good{.driver_version = 13000,
                        .runtime_version = 13000,
                        .gpus = 2,
                        .capability_major = 9,
                        .capability_minor = 0,
                        .error = {}};
  const auto reason = [&](const auto& change, int index = 0) {
    gpu::Facts f = good;
    change(f);
    return gpu::why_unusable(f, index);
  };
  const auto none = [](gpu::Facts&) {};
  EXPECT_EQ(reason(none), "");
  EXPECT_EQ(reason(none, 1), "");
  EXPECT_EQ(reason([](gpu::Facts& f) { f.runtime_version = 13020; }), "");
  EXPECT_NE(reason([](gpu::Facts& f) { f.driver_version = 0; }).find("no GPU driver"), std::string::npos);
  EXPECT_NE(reason([](gpu::Facts& f) { f.driver_version = 12080; }).find("supports runtime 12.8"),
            std::string::npos);
  EXPECT_NE(reason([](gpu::Facts& f) { f.error = "out of order"; }).find("out of order"), std::string::npos);
  EXPECT_NE(reason([](gpu::Facts& f) { f.gpus = 0; }).find("shows no GPU"), std::string::npos);
  EXPECT_NE(reason(none, 2).find("no gpu:2"), std::string::npos);
  EXPECT_NE(reason([](gpu::Facts& f) {
              f.capability_major = 7;
              f.capability_minor = 5;
            }).find("compute capability 7.5"),
            std::string::npos);
}

}  // namespace
}  // namespace xmoe
