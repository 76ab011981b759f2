// Tests that run once per device that this binary is built for:
//
//   XMOE_DEVICE_SUITE(Gather);
//   TEST_P(Gather, AgreesWithTheReference) { EXPECT_OK(check(gather_case(5, 13, 7), device())); }
//
// Where a device is built for and cannot be used, its tests are skipped with the reason; with
// XMOE_REQUIRE_GPU in the environment they fail.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <ostream>
#include <string>
#include <vector>

#include "device/context.h"
#include "support/compare.h"
#include "support/devices.h"

namespace xmoe {

// How GoogleTest and ctest call the parameter.
inline void PrintTo(const Device& device, std::ostream* out) { *out << name_of(device); }

inline void skip_unusable(const Device& device) {
  const std::string reason = why_unusable(device);
  if (reason.empty()) return;
  if (std::getenv("XMOE_REQUIRE_GPU") != nullptr) FAIL() << reason;
  GTEST_SKIP() << reason;
}

class DeviceTest : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { skip_unusable(device()); }

  static const Device& device() { return GetParam(); }
};

inline std::string test_name_of(const testing::TestParamInfo<Device>& info) {
  return info.param.is_cpu() ? "cpu" : "gpu";
}

}  // namespace xmoe

// Tests of what only a GPU does: none in a binary that is not built for one.
#define XMOE_GPU_SUITE(name)                           \
  class name : public ::xmoe::DeviceTest {};           \
  GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(name); \
  INSTANTIATE_TEST_SUITE_P(On, name, testing::ValuesIn(::xmoe::built_gpus()), ::xmoe::test_name_of)

#define XMOE_DEVICE_SUITE(name)              \
  class name : public ::xmoe::DeviceTest {}; \
  INSTANTIATE_TEST_SUITE_P(On, name, testing::ValuesIn(::xmoe::built_devices()), ::xmoe::test_name_of)
