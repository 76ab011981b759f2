// Threads of one process (OpenMP). Work is cut by size, never by arrival, wherever an order of sums depends
// on it.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <utility>

namespace xmoe {

inline int thread_count() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

namespace detail {
// An exception must not leave an OpenMP region: keep the first one and rethrow it after the region.
class FirstException {
 public:
  template <typename F>
  void run(F&& f) noexcept {
    try {
      f();
    } catch (...) {
#pragma omp critical(xmoe_first_exception)
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

// Within its scope this thread's work uses no other threads, libraries that ask OpenMP included.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};
}  // namespace detail

// Calls f(begin, end) on contiguous ranges that cover [0, count), each at least `grain` long (but for the
// last), on at most thread_count() threads. Runs inline for small counts.
template <typename F>
void parallel_for(std::int64_t count, std::int64_t grain, F&& f) {
  if (count <= 0) return;
  const std::int64_t wanted = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain));
  const int threads = static_cast<int>(std::min<std::int64_t>(thread_count(), wanted));
  if (threads <= 1) {
    f(std::int64_t{0}, count);
    return;
  }
  detail::FirstException error;
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t n = omp_get_num_threads();
    const std::int64_t i = omp_get_thread_num();
    const std::int64_t begin = count * i / n;
    const std::int64_t end = count * (i + 1) / n;
    if (begin < end) error.run([&] { f(begin, end); });
  }
  error.rethrow();
}

// Calls f(task, thread) for every task in [0, count); tasks are handed out as threads become free, so f must
// give the same result whichever thread runs it. `thread` in [0, thread_count()) selects scratch memory.
// A task belongs to one thread, a lone one too: a library that cut it by the number of threads (oneDNN splits
// the inner dimension of a flat product) would give other bits on other machines.
template <typename F>
void parallel_tasks(std::int64_t count, F&& f) {
  if (count <= 0) return;
  const int threads = static_cast<int>(std::min<std::int64_t>(thread_count(), count));
  if (threads <= 1) {
    const detail::OneThread scope;
    for (std::int64_t i = 0; i < count; ++i) f(i, 0);
    return;
  }
  detail::FirstException error;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::int64_t i = 0; i < count; ++i) error.run([&] { f(i, omp_get_thread_num()); });
  error.rethrow();
}

}  // namespace xmoe
