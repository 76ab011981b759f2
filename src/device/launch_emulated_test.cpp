// What the emulated GPU must show of kernels that are wrong, and must not of those that are right.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/gpu.h"

namespace xmoe::gpu {
namespace {

const Device kGpu{Device::Kind::gpu, 0};
constexpr int kThreads = 128;

template <typename... Parameters, typename... Arguments>
void run(void (*kernel)(Parameters...), Grid grid, Block block, std::size_t shared_bytes,
         Arguments&&... arguments) {
  launch(kernel, grid, block, shared_bytes, stream(kGpu), std::forward<Arguments>(arguments)...);
}

std::string error_of(void (*kernel)(), Block block) {
  try {
    run(kernel, Grid(1), block, 0);
  } catch (const InvariantError& error) {
    return error.what();
  }
  return {};
}

__global__ void number_kernel(int* numbers) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  ++numbers[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

TEST(EmulatedLaunch, EveryThreadOfEveryBlockRunsOnce) {
  std::vector<int> numbers(5 * 2 * 3 * 4 * 2 * 7);
  for (int runs = 1; runs <= 3; ++runs) {
    run(number_kernel, Grid(5, 2, 3), Block(4, 2, 7), 0, numbers.data());
    EXPECT_EQ(numbers, std::vector<int>(numbers.size(), runs));
  }
  run(number_kernel, Grid(0), Block(4), 0, numbers.data());  // no blocks, no work
}

template <bool kWithBarrier>
__global__ void reverse_kernel(const int* from, int* to) {
  __shared__ int held[kThreads];
  held[threadIdx.x] = from[threadIdx.x];
  if constexpr (kWithBarrier) __syncthreads();
  to[threadIdx.x] = held[kThreads - 1 - threadIdx.x];
}

TEST(EmulatedLaunch, ABlockBarrierIsWaitedAt) {
  std::vector<int> from(kThreads);
  std::iota(from.begin(), from.end(), 1);
  std::vector<int> to(kThreads);
  run(reverse_kernel<true>, Grid(1), Block(kThreads), 0, from.data(), to.data());
  EXPECT_EQ(to, std::vector<int>(from.rbegin(), from.rend()));
}

TEST(EmulatedLaunch, AMissingBlockBarrierShows) {
  std::vector<int> from(kThreads);
  std::iota(from.begin(), from.end(), 1);
  std::vector<int> to(kThreads);
  run(reverse_kernel<false>, Grid(1), Block(kThreads), 0, from.data(), to.data());
  EXPECT_NE(to, std::vector<int>(from.rbegin(), from.rend()));
}

template <bool kWithBarrier>
__global__ void neighbour_kernel(int* to) {
  __shared__ int held[kThreads];
  const unsigned thread = threadIdx.x;
  held[thread] = static_cast<int>(thread);
  if constexpr (kWithBarrier) warp_barrier();
  to[thread] = held[thread ^ 1U];
}

TEST(EmulatedLaunch, AMissingWarpBarrierShows) {
  std::vector<int> expected(kThreads);
  for (int i = 0; i < kThreads; ++i) expected[static_cast<std::size_t>(i)] = i ^ 1;
  std::vector<int> to(kThreads);
  run(neighbour_kernel<true>, Grid(1), Block(kThreads), 0, to.data());
  EXPECT_EQ(to, expected);
  run(neighbour_kernel<false>, Grid(1), Block(kThreads), 0, to.data());
  EXPECT_NE(to, expected);
}

__global__ void warp_kernel(int* sums, unsigned long long* votes) {
  int sum = static_cast<int>(threadIdx.x);
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  sums[threadIdx.x] = sum;
  votes[threadIdx.x] = ballot(threadIdx.x % 3 == 0);
}

TEST(EmulatedLaunch, WarpsShuffleAndVote) {
  std::vector<int> sums(kThreads);
  std::vector<unsigned long long> votes(kThreads);
  run(warp_kernel, Grid(1), Block(kThreads), 0, sums.data(), votes.data());
  for (int i = 0; i < kThreads; ++i) {
    const int first = i / kWarpSize * kWarpSize;
    unsigned long long bits = 0;
    for (int lane = 0; lane < kWarpSize; ++lane)
      bits |= static_cast<unsigned long long>((first + lane) % 3 == 0) << lane;
    EXPECT_EQ(sums[static_cast<std::size_t>(i)], (2 * first + kWarpSize - 1) * kWarpSize / 2);
    EXPECT_EQ(votes[static_cast<std::size_t>(i)], bits);
  }
}

__global__ void unwritten_kernel(float* to, std::int32_t* integers) {
  __shared__ float held[4];
  to[0] = held[2];
  to[1] = dynamic_shared<float>()[5];
  integers[0] = dynamic_shared<std::int32_t>()[4];
}

TEST(EmulatedLaunch, SharedMemoryThatNobodyWroteIsNoNumber) {
  float numbers[2] = {};
  std::int32_t integer = 0;
  run(unwritten_kernel, Grid(1), Block(1), 6 * sizeof(float), numbers, &integer);
  EXPECT_TRUE(std::isnan(numbers[0]));
  EXPECT_TRUE(std::isnan(numbers[1]));
  EXPECT_GT(integer, 1 << 30);
}

TEST(EmulatedMemory, FreshMemoryIsNoNumber) {
  void* data = device_allocate(kGpu, 3 * sizeof(float));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(static_cast<float*>(data)[i]));
  device_free(kGpu, data);
}

__global__ void ends_early_kernel() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}
__global__ void two_barriers_kernel() {
  if (threadIdx.x < kWarpSize)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void half_shuffles_kernel() {
  if (threadIdx.x % 2 == 0) shuffle_xor(1, 2);
}
__global__ void mixed_kernel() {
  if (threadIdx.x % 2 == 0)
    ballot(true);
  else
    warp_barrier();
}
__global__ void shuffles_kernel() { shuffle_xor(1, kWarpSize / 2); }

TEST(EmulatedLaunch, ThreadsThatDoNotWaitTogetherAreNamed) {
  const auto expect = [](void (*kernel)(), Block block, const std::vector<std::string>& parts) {
    const std::string error = error_of(kernel, block);
    for (const std::string& part : parts)
      EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
  };
  expect(ends_early_kernel, Block(kThreads),
         {"thread (5, 0, 0) has ended", "waits at the block's barrier of", "launch_emulated_test.cpp:"});
  expect(two_barriers_kernel, Block(kThreads), {"do not wait together", "waits at the block's barrier"});
  expect(half_shuffles_kernel, Block(kThreads), {"waits in a shuffle by 2", "has ended"});
  expect(mixed_kernel, Block(kThreads), {"waits in a ballot", "waits at a barrier of its warp"});
  expect(shuffles_kernel, Block(kWarpSize / 2), {"waits in a shuffle by"});  // with lanes that are not there
  EXPECT_EQ(error_of(shuffles_kernel, Block(kWarpSize)), "");  // and all goes on behind an error
#if defined(XMOE_ADDRESS_SANITIZED)
  expect(ends_early_kernel, Block(kThreads), {"ends_early_kernel"});
#else
  expect(ends_early_kernel, Block(kThreads), {"addr2line"});
#endif
}

TEST(EmulatedLaunch, WhatNoGpuLaunchesIsRefused) {
  EXPECT_NE(error_of(shuffles_kernel, Block(2048)).find("more than every GPU can launch"), std::string::npos);
}

#if defined(XMOE_ADDRESS_SANITIZED)
__global__ void beyond_kernel(const int* from, int* to, int at) { to[0] = from[at]; }
__global__ void beyond_shared_kernel(int* to, int at) {
  __shared__ int held[4];
  held[threadIdx.x] = 0;
  __syncthreads();
  to[threadIdx.x] = held[at];
}
__global__ void wide_kernel(const int* from, uint4* to) { *to = *reinterpret_cast<const uint4*>(from); }

TEST(EmulatedLaunchDeathTest, WrongAccessesEndTheProgram) {
  uint4 wide{};
  auto* data = static_cast<int*>(device_allocate(kGpu, 4 * sizeof(int)));
  EXPECT_DEATH(run(beyond_kernel, Grid(1), Block(1), 0, data, data, 4), "heap-buffer-overflow");
  EXPECT_DEATH(run(beyond_shared_kernel, Grid(1), Block(4), 0, data, 4),
               "global-buffer-overflow|out of bounds");
  run(beyond_kernel, Grid(1), Block(1), 0, data, data, 3);
  EXPECT_DEATH(run(wide_kernel, Grid(1), Block(1), 0, data + 1, &wide), "misaligned address");
  run(wide_kernel, Grid(1), Block(1), 0, data, &wide);
  device_free(kGpu, data);
}
#endif

}  // namespace
}  // namespace xmoe::gpu
