#include "moe/dispatch/choice.h"

#include <gtest/gtest.h>

#include "comm/mesh.h"
#include "distributed/dispatch_batch.h"

namespace xmoe {
namespace {

using namespace dispatch_test;

TEST(DispatcherChoice, IsTheSameOnAllRanksAndSaysWhy) {
  const ArrangedNodes nodes(Nodes::of_2);
  const Mesh mesh(tested(), tested().size());
  MoeConfig config;
  config.router.experts = 4 * tested().size();
  config.router.top_k = 4;
  const DispatcherChoice choice =
      choose_dispatcher(mesh.ep(), mesh.ep_node(), config, tested().rank() == 0 ? 100 : 50, 16, DType::bf16);
  for (const auto& why : tested().all_gather_text(choice.why)) EXPECT_EQ(why, choice.why);
  const bool rbd = choice.kind == DispatcherKind::rbd;
  EXPECT_TRUE(rbd || choice.kind == DispatcherKind::flat);
  EXPECT_EQ(choice.why.find(rbd ? "rbd: " : "flat: "), 0U) << choice.why;
  EXPECT_EQ(rbd, choice.rbd_seconds < choice.flat_seconds);
  const bool measured = choice.why.find("measured with 100 tokens") != std::string::npos;
  EXPECT_EQ(measured, tested().size() > 1) << choice.why;
}

}  // namespace
}  // namespace xmoe
