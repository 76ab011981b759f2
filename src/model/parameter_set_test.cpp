#include "model/parameter_set.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

class ParameterSetOnADevice : public DeviceTest {
 protected:
  const std::unique_ptr<Communicator> world = make_self_communicator();
  const Mesh mesh{*world, 1};
  Arena values{device(), MemoryTag::parameters};
};
INSTANTIATE_TEST_SUITE_P(On, ParameterSetOnADevice, testing::ValuesIn(built_devices()), test_name_of);

TEST_P(ParameterSetOnADevice, InitialValuesDoNotDependOnTheLayout) {
  ParameterSet whole;
  ParameterSet part;
  ParameterSpec spec{
      .name = "w", .global_shape = {4, 6}, .replication = Replication::expert, .init_std = 1.0};
  whole.declare(spec);
  spec.sharding.axes[0] = {{2, 2}};
  spec.sharding.axes[1] = {{0, 1}, {3, 2}};
  part.declare(spec);
  whole.allocate(values, nullptr, mesh, 9);
  part.allocate(values, nullptr, mesh, 9);
  ASSERT_EQ(part.all()[0].value.shape(), (Shape{2, 3}));
  const auto of_whole = to_doubles(whole.all()[0].value);
  const auto of_part = to_doubles(part.all()[0].value);
  const std::size_t columns[] = {0, 3, 4};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(of_part[i], of_whole[6 * (2 + i / 3) + columns[i % 3]]);
}

// More elements than are computed at a time, by more threads than one.
TEST_P(ParameterSetOnADevice, InitialValuesDependOnTheirIndexAlone) {
  constexpr std::size_t kRows = 5000;
  constexpr std::size_t kColumns = 1000;
  ParameterSet set;
  set.declare({.name = "w", .global_shape = {kRows, kColumns}, .init_std = 1.0});
  set.allocate(values, nullptr, mesh, 9);
  const Rng rng(9, "w");
  const auto w = to_doubles(set.all()[0].value);
  // A GPU's may be the neighbours of the host's.
  const double allowed = device().is_cpu() ? 0.0 : 2.0 * unit_roundoff(DType::f32);
  for (std::size_t i = 0; i < kRows * kColumns; i += 997) {
    const double expected = static_cast<float>(rng.normal(i));
    ASSERT_LE(std::abs(w[i] - expected), allowed * std::abs(expected)) << i;
  }
}

// All that lies side by side in a model: dtypes, constants, what has no gradient.
ParameterSet mixed() {
  ParameterSet set;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const std::string prefix(name_of(dtype));
    set.declare({.name = prefix + ".norm", .global_shape = {7}, .dtype = dtype, .init_value = 1.0F});
    set.declare({.name = prefix + ".w", .global_shape = {5, 9}, .dtype = dtype, .init_std = 0.02});
  }
  set.declare({.name = "bias", .global_shape = {3}, .trainable = false});
  return set;
}

TEST_P(ParameterSetOnADevice, EveryParameterBeginsAsDeclared) {
  Arena on_host({}, MemoryTag::parameters);
  ParameterSet set = mixed();
  ParameterSet host = mixed();
  set.allocate(values, nullptr, mesh, 9);
  host.allocate(on_host, nullptr, mesh, 9);
  for (std::size_t i = 0; i < set.all().size(); ++i) {
    const Parameter& p = set.all()[i];
    EXPECT_EQ(p.value.device(), device());
    EXPECT_OK(compare(p.value, to_doubles(host.all()[i].value), tolerance_for(p.value.dtype()), p.name));
  }
  EXPECT_EQ(to_doubles(set.all()[2].value), std::vector<double>(7, 1.0));
  EXPECT_EQ(to_doubles(set.all().back().value), std::vector<double>(3, 0.0));
  // Behind the parameters of a group there are zeros up to the next multiple.
  for (const ParameterGroup& g : set.groups()) {
    const Tensor rest = g.values.slice(7 + 45, g.values.dim(0));
    ASSERT_GT(rest.numel(), 0);
    EXPECT_EQ(to_doubles(rest), std::vector<double>(static_cast<std::size_t>(rest.numel()), 0.0));
  }
}

TEST_P(ParameterSetOnADevice, WithoutASeedValuesAreNotNumbers) {
  ParameterSet set = mixed();
  set.allocate(values, nullptr, mesh, std::nullopt);
  for (const Parameter& p : set.all())
    for (const double value : to_doubles(p.value)) ASSERT_TRUE(std::isnan(value)) << p.name;
}

}  // namespace
}  // namespace xmoe
