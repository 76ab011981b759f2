#include "ops/embedding/embedding.h"

#include <gtest/gtest.h>

#include <string>

#include "ops/embedding/embedding_case.h"

namespace xmoe {
namespace {

TEST(Embedding, AgreesWithTheReference) {
  EXPECT_OK(check(embedding_case(9, 5, 7)));
  EXPECT_OK(check(embedding_case(200, 3, 50)));  // many tokens of one id, and a width beyond cache lines
  EXPECT_OK(check(embedding_case(1, 1, 1)));
  EXPECT_OK(check(embedding_case(0, 4, 16)));
  EXPECT_OK(check(embedding_case(60, 4, 19, -4)));  // half of the rows lie elsewhere
}

TEST(Embedding, AllTokensOfOneId) {
  OpCase op = embedding_case(100, 4, 33);
  op.inputs[0].fill = values({2.0});
  EXPECT_OK(check(op));
}

TEST(Embedding, NamesTheIdOutsideTheTable) {
  Arena arena({}, MemoryTag::workspace);
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
