#include "ops/embedding/embedding.h"

#include <gtest/gtest.h>

#include <string>

#include "ops/embedding/embedding_case.h"
#include "support/device_test.h"

namespace xmoe {
namespace {

XMOE_DEVICE_SUITE(Embedding);

TEST_P(Embedding, AgreesWithTheReference) {
  EXPECT_OK(check(embedding_case(9, 5, 7), device()));
  EXPECT_OK(
      check(embedding_case(200, 3, 50), device()));  // many tokens of one id, and a width beyond cache lines
  EXPECT_OK(check(embedding_case(1, 1, 1), device()));
  EXPECT_OK(check(embedding_case(0, 4, 16), device()));
  EXPECT_OK(check(embedding_case(150, 40, 640), device()));   // beyond a block of wide accesses
  EXPECT_OK(check(embedding_case(60, 4, 19, -4), device()));  // half of the rows lie elsewhere
}

TEST_P(Embedding, AllTokensOfOneId) {
  OpCase op = embedding_case(100, 4, 33);
  op.inputs[0].fill = values({2.0});
  EXPECT_OK(check(op, device()));
}

TEST_P(Embedding, NamesTheIdOutsideTheTable) {
  Arena arena(device(), MemoryTag::workspace);
  const Context ctx{arena};
  const Tensor table = arena.zeros(DType::f32, {10, 4});
  const Tensor ids = arena.tensor(DType::i32, {3});
  const Tensor out = arena.zeros(DType::f32, {3, 4});
  for (const double bad : {10.0, 100.0}) {
    from_doubles(std::vector<double>{1.0, 9.0, bad}, ids);
    for (const bool backward : {false, true}) {
      try {
        if (backward)
          embedding_backward(ctx, ids, out, table);
        else
          embedding_forward(ctx, ids, table, out);
        synchronize(device());
        FAIL() << "an id of " << bad << " was accepted";
      } catch (const Error& e) {
        const std::string message = e.what();
        EXPECT_NE(message.find(fmt::format("token id {} at position 2", bad)), std::string::npos) << message;
        EXPECT_NE(message.find("10 rows"), std::string::npos) << message;
      }
    }
  }
}

}  // namespace
}  // namespace xmoe
