#include "train/metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "support/interruptions.h"

namespace xmoe {
namespace {

class MetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("xmoe-metrics-" + std::to_string(getpid()) +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    file_ = folder_ / "metrics.jsonl";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::vector<std::int64_t> iterations() const {
    std::vector<std::int64_t> result;
    std::ifstream input(file_);
    for (std::string line; std::getline(input, line);)
      result.push_back(nlohmann::json::parse(line)["iteration"].get<std::int64_t>());
    return result;
  }

  std::filesystem::path folder_, file_;
};

IterationMetrics example() {
  IterationMetrics m;
  m.iteration = 12;
  m.iterations = 100;
  m.consumed_samples = 384;
  m.consumed_tokens = 98304;
  m.global_batch = 32;
  m.lm_loss = 5.25;
  m.aux_loss = 0.0125;
  m.z_loss = 0.5;
  m.learning_rate = 1.2e-4;
  m.grad_norm = 0.98765;
  m.step_ms = 104.26;
  m.tokens_per_second = 78576.25;
  m.tflops_per_device = 0.0573;
  m.tflops_per_device_xmoe = 0.0612;
  m.dropped_fraction = 0.015;
  m.expert_load_max_over_mean = 1.5;
  m.skipped_iterations = 1;
  m.seconds_left = 201.0;
  return m;
}

TEST_F(MetricsTest, IterationLineIsMegatrons) {
  EXPECT_EQ(iteration_line(example(), "2025-01-02 03:04:05"),
            " [2025-01-02 03:04:05] iteration       12/     100 | consumed samples:          384 | elapsed "
            "time per iteration (ms): "
            "104.3 | throughput per GPU (TFLOP/s/GPU): 0.0573 | learning rate: 1.200000E-04 | global batch "
            "size:    32 | lm loss: "
            "5.250000E+00 | load_balancing_loss: 1.250000E-02 | z_loss: 5.000000E-01 | loss scale: 1.0 | "
            "grad norm: 0.988 | number of "
            "skipped iterations:   1 | number of nan iterations:   0 | tokens per second: 78576.2 | TFLOPs: "
            "0.0612 | dropped: 1.50 % | "
            "expert load max/mean: 1.50 | ETA: 3:21 |");
}

TEST_F(MetricsTest, ThroughputHasDigitsThatSaySomething) {
  const auto printed = [](double tflops) {
    IterationMetrics m = example();
    m.tflops_per_device = tflops;
    const std::string line = iteration_line(m, "now");
    const std::string before = "(TFLOP/s/GPU): ";
    const std::size_t begin = line.find(before) + before.size();
    return line.substr(begin, line.find(" |", begin) - begin);
  };
  EXPECT_EQ(printed(123.46), "123.5");
  EXPECT_EQ(printed(1.0), "1.0");
  EXPECT_EQ(printed(0.57349), "0.573");
  EXPECT_EQ(printed(0.01014), "0.0101");
  EXPECT_EQ(printed(1.25e-12), "0.000000000");
  EXPECT_EQ(printed(0.0), "0.0");
}

TEST_F(MetricsTest, JsonHoldsEveryField) {
  const nlohmann::json json = nlohmann::json::parse(metrics_json(example()));
  EXPECT_EQ(json["iteration"], 12);
  EXPECT_EQ(json["consumed_samples"], 384);
  EXPECT_EQ(json["consumed_tokens"], 98304);
  EXPECT_EQ(json["lm_loss"], 5.25);
  EXPECT_EQ(json["aux_loss"], 0.0125);
  EXPECT_EQ(json["z_loss"], 0.5);
  EXPECT_EQ(json["learning_rate"], 1.2e-4);
  EXPECT_EQ(json["grad_norm"], 0.98765);
  EXPECT_EQ(json["tokens_per_second"], 78576.25);
  EXPECT_EQ(json["tflops_per_device"], 0.0573);
  EXPECT_EQ(json["dropped_fraction"], 0.015);
  EXPECT_EQ(json["expert_load_max_over_mean"], 1.5);
  EXPECT_EQ(json["step_ms"], 104.26);
  EXPECT_EQ(json["skipped_iterations"], 1);
  EXPECT_EQ(json["nan_iterations"], 0);
}

TEST_F(MetricsTest, WhatIsNotFiniteIsNull) {
  IterationMetrics m = example();
  m.lm_loss = std::numeric_limits<double>::quiet_NaN();
  m.grad_norm = std::numeric_limits<double>::infinity();
  const nlohmann::json json = nlohmann::json::parse(metrics_json(m));
  EXPECT_TRUE(json["lm_loss"].is_null());
  EXPECT_TRUE(json["grad_norm"].is_null());
}

TEST_F(MetricsTest, ValidationIsReported) {
  ValidationMetrics m{.iteration = 20, .consumed_tokens = 1000, .lm_loss = 1.0, .bits_per_byte = 2.125};
  EXPECT_EQ(validation_line(m),
            " validation loss at iteration 20 | lm loss value: 1.000000E+00 | lm loss PPL: 2.718282E+00 | "
            "bits per byte: 2.1250 |");
  const nlohmann::json json = nlohmann::json::parse(metrics_json(m));
  EXPECT_EQ(json["validation_loss"], 1.0);
  EXPECT_EQ(json["validation_bits_per_byte"], 2.125);
  m.bits_per_byte.reset();
  EXPECT_FALSE(nlohmann::json::parse(metrics_json(m)).contains("validation_bits_per_byte"));
}

TEST_F(MetricsTest, ResumeCutsWhatWasNotSaved) {
  {
    MetricsReporter reporter(file_, 0);
    for (std::int64_t i = 1; i <= 5; ++i) {
      IterationMetrics m = example();
      m.iteration = i;
      reporter.report(m, nullptr);
    }
  }
  EXPECT_EQ(iterations(), (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  std::ofstream(file_, std::ios::app) << R"({"iteration": 6, "lm_lo)";  // killed while writing
  {
    MetricsReporter reporter(file_, 3);
    IterationMetrics m = example();
    m.iteration = 4;
    reporter.report(m, nullptr);
  }
  EXPECT_EQ(iterations(), (std::vector<std::int64_t>{1, 2, 3, 4}));
}

TEST_F(MetricsTest, ResumeRemovesATornEndAlone) {
  std::ofstream(file_) << "{\"iteration\": 1}\n{\"iter";
  { const MetricsReporter reporter(file_, 9); }
  EXPECT_EQ(read_text_file(file_), "{\"iteration\": 1}\n");
}

TEST_F(MetricsTest, NewTrainingKeepsTheOldFile) {
  std::ofstream(file_) << "{\"iteration\": 7}\n";
  {
    MetricsReporter reporter(file_, 0);
    reporter.report(example(), nullptr);
  }
  EXPECT_EQ(iterations(), std::vector<std::int64_t>{12});
  EXPECT_EQ(read_text_file(folder_ / "metrics.jsonl.old"), "{\"iteration\": 7}\n");
}

TEST_F(MetricsTest, AFileThatCannotBeOpenedIsRefused) {
  for (const char* path : {"/proc/no-such-folder/metrics", "/proc/version/metrics", "/proc"})
    EXPECT_THROW(MetricsReporter(path, 0), Error) << path;
}

// A reader of a pipe that is slow, and signals while a line waits for it.
TEST_F(MetricsTest, SignalsLoseNoLine) {
  ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
  const int fd = open(file_.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(fd, 0);
  const int room = fcntl(fd, F_SETPIPE_SZ, 4096);
  fcntl(fd, F_SETFL, 0);
  constexpr int kLines = 50;  // of some hundred bytes: more than there is room for
  std::string read;
  {
    MetricsReporter reporter(file_, 0);
    const Interruptions interruptions([&] {
      char buffer[4096];
      while (std::count(read.begin(), read.end(), '\n') < kLines) {
        const ssize_t n = ::read(fd, buffer, sizeof(buffer));
        if (n <= 0) break;
        read.append(buffer, static_cast<std::size_t>(n));
      }
    });
    for (int i = 0; i < kLines; ++i) {
      ValidationMetrics m;
      m.iteration = i;
      reporter.report(m, nullptr);
    }
  }
  close(fd);
  EXPECT_EQ(std::count(read.begin(), read.end(), '\n'), kLines);
  EXPECT_LT(room, static_cast<int>(read.size())) << "the pipe held it all";
}

TEST_F(MetricsTest, TrainingGoesOnWithoutAFile) {
  MetricsReporter reporter("/dev/full", 5);  // a device on which every write fails
  EXPECT_NO_THROW(reporter.report(example(), nullptr));
  MetricsReporter none("", 0);
  EXPECT_NO_THROW(none.report(example(), nullptr));
}

}  // namespace
}  // namespace xmoe
