// A value that is not finite on one rank: the error names the rank and the place where it arises, not those
// where it arrives.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.h"
#include "comm/mesh.h"
#include "distributed/support.h"
#include "model/transformer.h"
#include "train/optimizer.h"
#include "train/training_step.h"

namespace xmoe {
namespace {

using distributed::world;

// What the training says once it gives up, with a NaN in `parameter` of the last rank.
std::string error_with_nan_in(const std::string& parameter, int expert_parallel) {
  ModelConfig c;
  c.layers = 2;
  c.hidden = 16;
  c.heads = 2;
  c.vocabulary = 32;
  c.seq_length = 6;
  c.moe.router.experts = 8;
  c.moe.ffn_hidden = 8;
  c.resolve();
  Mesh mesh(world(), expert_parallel);
  Transformer model(c, DType::f32, mesh, 5, true);
  Optimizer optimizer({}, model.parameters(), mesh);
  TrainingStep step(model, optimizer, mesh, 2);
  if (world().rank() == world().size() - 1)
    for (const auto& p : model.parameters().all())
      if (p.name == parameter)
        std::fill_n(p.value.data<float>(), p.value.numel(), std::numeric_limits<float>::quiet_NaN());
  try {
    for (int i = 0; i < TrainingStep::kMaxConsecutiveSkips; ++i)
      step.run(1, 1e-3, [](std::int64_t, const Tensor& tokens, const Tensor& targets) {
        for (std::int64_t t = 0; t < tokens.numel(); ++t) {
          tokens.data<std::int32_t>()[t] = static_cast<std::int32_t>(t * 5 % 32);
          targets.data<std::int32_t>()[t] = static_cast<std::int32_t>(t * 7 % 32);
        }
      });
  } catch (const Error& error) {
    EXPECT_EQ(error.scope(), ErrorScope::every_rank);
    return error.what();
  }
  return {};
}

TEST(NonFinite, IsNamedWhereItArises) {
  const auto expect = [](const std::string& parameter, int expert_parallel, const std::string& place) {
    const std::string error = error_with_nan_in(parameter, expert_parallel);
    const std::string expected = fmt::format("it arises first in {} (rank {})", place, world().size() - 1);
    EXPECT_NE(error.find(expected), std::string::npos) << error;
  };
  for (const int expert_parallel : {1, world().size()}) {
    expect("embedding.weight", expert_parallel, "the embedding");
    expect("layers.1.attention.out", expert_parallel, "the output of attention in layer 1");
  }
  expect("layers.1.moe.experts.w2", 1, "the output of layer 1");
}

}  // namespace
}  // namespace xmoe
