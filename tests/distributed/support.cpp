#include "distributed/support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>  // mkdtemp
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace xmoe::distributed {

namespace {

// Long enough for any test on an overloaded machine, short enough to wait for.
constexpr int kDefaultTimeLimitSeconds = 120;

Communicator* the_world = nullptr;
Communicator* the_tested = nullptr;
Device the_device;
bool in_rank_order = true;

void print(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

int time_limit_seconds() {
  const char* text = std::getenv("XMOE_TEST_TIME_LIMIT");
  const int seconds = text == nullptr ? 0 : std::atoi(text);
  return seconds > 0 ? seconds : kDefaultTimeLimitSeconds;
}

// A thread that ends the process when a test is not over in time; the launcher then ends the other ranks.
class Watchdog {
 public:
  Watchdog() : thread_([this] { watch(); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void arm(std::string test) {
    const std::lock_guard lock(mutex_);
    test_ = std::move(test);
    deadline_ = Clock::now() + std::chrono::seconds(time_limit_seconds());
    changed_.notify_all();
  }
  void disarm() { arm({}); }

 private:
  using Clock = std::chrono::steady_clock;

  void watch() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (test_.empty()) {
        changed_.wait(lock);
      } else if (changed_.wait_until(lock, deadline_) == std::cv_status::timeout && !test_.empty() &&
                 Clock::now() >= deadline_) {
        const std::string operation = pending_operation();
        print(fmt::format("rank {} of {}: the test {} is not over after {} s; it is in {}\n",
                          the_world->rank(), the_world->size(), test_, time_limit_seconds(),
                          operation.empty() ? "no collective" : operation));
        // The ranks reach their limits together: leave the others the time to say where they are.
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        std::_Exit(1);
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string test_;
  Clock::time_point deadline_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses the members above
};

// Makes the verdict of a test that of all ranks. Its own group keeps the agreement apart from what a failed
// test left behind.
class Agreement : public testing::EmptyTestEventListener {
 public:
  explicit Agreement(Communicator& world) : group_(world.split(0, world.rank(), "verdict")) {}

  void OnTestStart(const testing::TestInfo& test) override { watchdog_.arm(full_name(test)); }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed() && group_->rank() > 0) {
      print(fmt::format("rank {}: {}:{}: {}\n", group_->rank(), result.file_name() ? result.file_name() : "?",
                        result.line_number(), result.message()));
    }
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    const bool failed = test.result()->Failed();
    const auto verdicts = group_->all_gather_text(fmt::format("{}{}", failed ? 'F' : ' ', full_name(test)));
    std::string others;
    for (std::size_t r = 0; r < verdicts.size(); ++r) {
      if (verdicts[r].substr(1) != full_name(test)) {
        print(fmt::format("rank {} runs the test {} while rank {} runs {}\n", group_->rank(), full_name(test),
                          r, verdicts[r].substr(1)));
        std::_Exit(1);
      }
      if (verdicts[r].front() == 'F') others += fmt::format(" {}", r);
    }
    if (!failed && !others.empty()) ADD_FAILURE() << "failed on rank(s)" << others;
    watchdog_.disarm();
  }

 private:
  static std::string full_name(const testing::TestInfo& test) {
    return fmt::format("{}.{}", test.test_suite_name(), test.name());
  }

  std::unique_ptr<Communicator> group_;
  Watchdog watchdog_;
};

}  // namespace

Communicator& world() { return *the_world; }

Communicator& tested() { return *the_tested; }
const Device& tested_device() { return the_device; }
bool sums_in_rank_order() { return in_rank_order; }

TestedBackend backend_of_environment(int rank) {
  const char* text = std::getenv("XMOE_TEST_COLLECTIVES");
  const std::string name = text == nullptr ? "host" : text;
  if (name == "host") return {};
  if (name != "nccl" && name != "staged")
    fail("XMOE_TEST_COLLECTIVES is '{}': expected host, nccl or staged", name);
  int gpus = 1;
  while (why_unusable(Device{Device::Kind::gpu, gpus}).empty()) ++gpus;
  return {.device = {Device::Kind::gpu, rank % gpus},
          .backend = name == "nccl" ? DeviceBackend::nccl : DeviceBackend::staged};
}

int status_without(const Device& device, int rank) {
  const std::string reason = why_unusable(device);
  if (reason.empty()) return 0;
  const bool required = std::getenv("XMOE_REQUIRE_GPU") != nullptr;
  if (rank == 0) print(fmt::format("{}: {}\n", required ? "failed" : "skipped", reason));
  return required ? 1 : kSkipped;
}

Mirror::Mirror(const Tensor& host) : host_(host), there_(host) {
  if (the_device.is_cpu()) return;
  there_ = Tensor(device_allocate(the_device, std::max<std::size_t>(host.bytes(), 1)), host.dtype(),
                  host.shape(), the_device);
  device_copy(Device{}, host.raw(), the_device, there_.raw(), host.bytes());
}

Mirror::~Mirror() {
  if (!the_device.is_cpu()) device_free(the_device, there_.raw());
}

void Mirror::fetch() const {
  if (!the_device.is_cpu()) device_copy(the_device, there_.raw(), Device{}, host_.raw(), host_.bytes());
}

SharedDirectory::SharedDirectory() {
  std::string name;
  if (world().rank() == 0) {
    name = (std::filesystem::temp_directory_path() / "xmoe-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("cannot create a directory like {}", name);
  }
  path_ = world().all_gather_text(name).front();
}

SharedDirectory::~SharedDirectory() {
  world().barrier();
  std::error_code ignored;
  if (world().rank() == 0 && !testing::Test::HasFailure()) std::filesystem::remove_all(path_, ignored);
}

int run_tests(int argc, char** argv) {
  CommunicationSession session(&argc, &argv);
  the_world = &session.world();
  const TestedBackend backend = backend_of_environment(the_world->rank());
  if (const int status = status_without(backend.device, the_world->rank()); status != 0) return status;
  std::unique_ptr<Communicator> on_device;
  if (!backend.device.is_cpu())
    on_device = the_world->size() == 1
                    ? make_self_communicator("world", backend.device)
                    : make_device_communicator(*the_world, backend.device, backend.backend);
  the_tested = on_device == nullptr ? the_world : on_device.get();
  the_device = backend.device;
  in_rank_order = backend.device.is_cpu() || backend.backend != DeviceBackend::nccl;
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (the_world->rank() > 0) delete listeners.Release(listeners.default_result_printer());
  // Ends of tests are announced to the last listener first: the printer of rank 0 then sees the common
  // verdict.
  auto* agreement = new Agreement(*the_world);
  listeners.Append(agreement);
  const bool failed = RUN_ALL_TESTS() != 0;
  delete listeners.Release(agreement);
  return static_cast<int>(the_world->all_reduce(std::int64_t{failed ? 1 : 0}, ReduceOp::max));
}

}  // namespace xmoe::distributed
