#include "device/arena.h"

#include <gtest/gtest.h>

#include <cstring>

#include "device/context.h"

namespace xmoe {
namespace {

constexpr std::int64_t kLarge = std::int64_t{1} << 18;  // floats: 1 MB, more than a first chunk

TEST(Arena, TensorsAreAlignedAndApart) {
  Arena arena({}, MemoryTag::workspace);
  const Tensor a = arena.tensor(DType::bf16, {3});
  const Tensor b = arena.tensor(DType::f32, {5});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.raw()) % 64, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.raw()) % 64, 0U);
  EXPECT_GE(static_cast<std::byte*>(b.raw()) - static_cast<std::byte*>(a.raw()), 64);
  EXPECT_EQ(arena.in_use(), 128U);
}

TEST(Arena, Zeros) {
  Arena arena({}, MemoryTag::workspace);
  std::memset(arena.allocate(400), 0xff, 400);
  arena.clear();
  const Tensor t = arena.zeros(DType::f32, {100});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(t.data<float>()[i], 0.0F);
  EXPECT_EQ(arena.zeros(DType::f32, {0, 4}).numel(), 0);
}

TEST(Arena, ScopesNest) {
  Arena arena({}, MemoryTag::workspace);
  const Tensor outer = arena.tensor(DType::f32, {16});
  void* inner = nullptr;
  {
    const ArenaScope scope(arena);
    inner = arena.tensor(DType::f32, {16}).raw();
    {
      const ArenaScope deeper(arena);
      arena.tensor(DType::f32, {1000});
    }
    EXPECT_EQ(arena.in_use(), 128U);
  }
  EXPECT_EQ(arena.in_use(), 64U);
  EXPECT_EQ(arena.tensor(DType::f32, {16}).raw(), inner);  // the memory is handed out again
  EXPECT_NE(outer.raw(), inner);
}

TEST(Arena, HighWaterIsTheMostInUse) {
  Arena arena({}, MemoryTag::workspace);
  {
    const ArenaScope scope(arena);
    arena.tensor(DType::f32, {32});
    arena.tensor(DType::f32, {32});
  }
  arena.tensor(DType::f32, {16});
  EXPECT_EQ(arena.high_water(), 256U);
  EXPECT_EQ(arena.in_use(), 64U);
}

TEST(Arena, GrowingLeavesTensorsWhereTheyAre) {
  Arena arena({}, MemoryTag::workspace);
  const Tensor first = arena.tensor(DType::f32, {4});
  first.data<float>()[3] = 7.0F;
  for (int i = 0; i < 5; ++i) {
    const Tensor t = arena.tensor(DType::f32, {kLarge});
    std::memset(t.raw(), 0, t.bytes());
  }
  EXPECT_EQ(first.data<float>()[3], 7.0F);
  EXPECT_EQ(arena.in_use(), 64U + 5U * static_cast<std::size_t>(kLarge) * 4U);
  EXPECT_GE(arena.reserved(), arena.in_use());
}

// What a training step does: after the first, the device is not asked for memory again.
TEST(Arena, NoAllocationAfterWarmUp) {
  Arena arena({}, MemoryTag::workspace);
  const auto step = [&] {
    const ArenaScope scope(arena);
    for (int i = 1; i < 6; ++i) {
      arena.tensor(DType::f32, {i * kLarge / 3});
      const ArenaScope inner(arena);
      arena.tensor(DType::bf16, {kLarge + i});
    }
  };
  step();
  const auto after_warm_up = arena.device_allocations();
  for (int i = 0; i < 4; ++i) step();
  EXPECT_EQ(arena.device_allocations(), after_warm_up);
}

TEST(Arena, ChunksMergeWhenEmpty) {
  Arena arena({}, MemoryTag::workspace);
  {
    const ArenaScope scope(arena);
    for (int i = 0; i < 4; ++i) arena.tensor(DType::f32, {kLarge});
  }
  const std::size_t reserved = arena.reserved();
  const auto allocations = arena.device_allocations();
  // A quarter more than was ever in use fits the merged chunk, in one piece.
  EXPECT_EQ(reserved, arena.high_water() + arena.high_water() / 4);
  arena.allocate(reserved);
  EXPECT_EQ(arena.reserved(), reserved);
  EXPECT_EQ(arena.device_allocations(), allocations);
}

// A chunk that is left over behind a mark and too small for the next request gives way.
TEST(Arena, LeftOverChunksGiveWay) {
  Arena arena({}, MemoryTag::workspace);
  const Tensor kept = arena.tensor(DType::f32, {16});
  const auto mark = arena.mark();
  arena.tensor(DType::f32, {kLarge});
  arena.rewind(mark);
  const Tensor larger = arena.tensor(DType::f32, {8 * kLarge});
  std::memset(larger.raw(), 0, larger.bytes());
  EXPECT_EQ(arena.in_use(), kept.bytes() + larger.bytes());
}

TEST(Arena, ContextKnowsItsDevice) {
  Arena arena({}, MemoryTag::workspace);
  EXPECT_TRUE(Context{arena}.device().is_cpu());
  EXPECT_EQ(name_of(arena.tag()), "workspace");
}

TEST(Arena, ReservesAtOnce) {
  Arena arena({}, MemoryTag::parameters);
  const std::size_t bytes = 2 * Arena::aligned(1001) + Arena::aligned(1 << 20);
  arena.reserve(bytes);
  arena.allocate(1001);
  arena.allocate(1 << 20);
  arena.allocate(1001);
  EXPECT_EQ(arena.reserved(), bytes);
  EXPECT_EQ(arena.device_allocations(), 1);
  EXPECT_THROW(arena.reserve(1), InvariantError);
  arena.clear();
  arena.reserve(bytes / 2);  // there already
  EXPECT_EQ(arena.device_allocations(), 1);
}

TEST(Arena, AreCountedByTagWhileTheyLive) {
  const auto optimizer = [] { return memory_by_tag({})[static_cast<std::size_t>(MemoryTag::optimizer)]; };
  const TagMemory before = optimizer();
  {
    Arena arena({}, MemoryTag::optimizer);
    arena.reserve(1 << 20);
    arena.allocate(1 << 10);
    EXPECT_EQ(optimizer().reserved, before.reserved + (1 << 20));
    EXPECT_EQ(optimizer().high_water, before.high_water + (1 << 10));
  }
  EXPECT_EQ(optimizer().reserved, before.reserved);
}

TEST(Arena, SaysWhatIsHeldWhenMemoryEnds) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer ends a process that asks for too much";
#endif
  Arena held({}, MemoryTag::parameters);
  held.reserve(std::size_t{3} << 30);  // of pages that nothing touches
  Arena arena({}, MemoryTag::saved);
  try {
    arena.allocate(std::size_t{1} << 62);
    ADD_FAILURE() << "there is so much memory";
  } catch (const Error& error) {
    const std::string message = error.what();
    for (const char* part :
         {"out of memory", "saved activations", "parameters 3.00 GiB", "--micro-batch-size"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST(DeviceMemory, IsThatOfTheMachine) {
  const DeviceMemory memory = device_memory({});
  EXPECT_GT(memory.total, std::size_t{1} << 28);
  EXPECT_LE(memory.free, memory.total);
}

}  // namespace
}  // namespace xmoe
