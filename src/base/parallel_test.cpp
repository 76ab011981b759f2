#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace xmoe {
namespace {

// Runs a test's body with more threads than this machine may have.
class Parallel : public ::testing::Test {
 protected:
  Parallel() : threads_(omp_get_max_threads()) { omp_set_num_threads(4); }
  ~Parallel() override { omp_set_num_threads(threads_); }

 private:
  int threads_;
};

TEST_F(Parallel, ForCoversEveryIndexOnce) {
  for (const std::int64_t count : {0, 1, 3, 4, 5, 1000})
    for (const std::int64_t grain : {0, 1, 7, 5000}) {
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
      parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
        EXPECT_LT(begin, end);
        for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      for (const auto& v : visits) EXPECT_EQ(v, 1);
    }
}

TEST_F(Parallel, SmallCountsRunInOneRange) {
  std::atomic<int> ranges = 0;
  parallel_for(10, 6, [&](std::int64_t, std::int64_t) { ++ranges; });
  EXPECT_EQ(ranges, 1);
}

TEST_F(Parallel, TasksRunOnceOnAKnownThread) {
  for (const std::int64_t count : {0, 1, 2, 100}) {
    std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
    parallel_tasks(count, [&](std::int64_t task, int thread) {
      EXPECT_GE(thread, 0);
      EXPECT_LT(thread, 4);
      ++visits[static_cast<std::size_t>(task)];
    });
    for (const auto& v : visits) EXPECT_EQ(v, 1);
  }
}

TEST_F(Parallel, ExceptionsReachTheCaller) {
  EXPECT_THROW(parallel_for(100, 1,
                            [](std::int64_t, std::int64_t end) {
                              if (end == 100) throw std::runtime_error("x");
                            }),
               std::runtime_error);
  EXPECT_THROW(parallel_tasks(100,
                              [](std::int64_t task, int) {
                                if (task == 37) throw std::runtime_error("x");
                              }),
               std::runtime_error);
}

// Inside a task the work of the task belongs to its thread.
TEST_F(Parallel, NestedLoopsRunInline) {
  std::atomic<int> total = 0;
  parallel_tasks(4, [&](std::int64_t, int) {
    EXPECT_EQ(thread_count(), 1);
    parallel_for(10, 1, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(end - begin, 10);
      total += static_cast<int>(end - begin);
    });
  });
  EXPECT_EQ(total, 40);
}

// Else what a library does in it would depend on the number of threads.
TEST_F(Parallel, ALoneTaskHasOneThread) {
  int threads = 0;
  parallel_tasks(1, [&](std::int64_t, int) { threads = omp_get_max_threads(); });
  EXPECT_EQ(threads, 1);
  EXPECT_EQ(thread_count(), 4);
  EXPECT_THROW(parallel_tasks(1, [](std::int64_t, int) { throw std::runtime_error("x"); }),
               std::runtime_error);
  EXPECT_EQ(thread_count(), 4);
}

}  // namespace
}  // namespace xmoe
