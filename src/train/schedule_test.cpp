#include "train/schedule.h"

#include <gtest/gtest.h>

namespace xmoe {
namespace {

Schedule schedule(DecayStyle style) {
  Schedule s;
  s.max_rate = 1.0;
  s.min_rate = 0.1;
  s.init_rate = 0.2;
  s.style = style;
  s.warmup_samples = 10;
  s.decay_samples = 50;
  return s;
}

TEST(Schedule, WarmsUpLinearlyFromTheInitialRate) {
  for (const DecayStyle style : {DecayStyle::constant, DecayStyle::linear, DecayStyle::cosine}) {
    const Schedule s = schedule(style);
    EXPECT_DOUBLE_EQ(s.rate_at(0), 0.2);
    EXPECT_DOUBLE_EQ(s.rate_at(5), 0.6);
    EXPECT_DOUBLE_EQ(s.rate_at(10), 1.0);
  }
}

TEST(Schedule, Decays) {
  const Schedule linear = schedule(DecayStyle::linear);
  EXPECT_DOUBLE_EQ(linear.rate_at(20), 0.1 + 0.9 * 0.75);
  EXPECT_DOUBLE_EQ(linear.rate_at(50), 0.1);
  EXPECT_DOUBLE_EQ(linear.rate_at(51), 0.1);
  const Schedule cosine = schedule(DecayStyle::cosine);
  EXPECT_NEAR(cosine.rate_at(20), 0.1 + 0.9 * 0.8535533905932737, 1e-15);  // (1 + cos(pi / 4)) / 2
  EXPECT_NEAR(cosine.rate_at(30), 0.55, 1e-15);
  EXPECT_NEAR(cosine.rate_at(50), 0.1, 1e-15);
  EXPECT_DOUBLE_EQ(cosine.rate_at(1000), 0.1);
  EXPECT_DOUBLE_EQ(schedule(DecayStyle::constant).rate_at(1000), 1.0);
}

TEST(Schedule, NeedsNoWarmup) {
  Schedule s = schedule(DecayStyle::linear);
  s.warmup_samples = 0;
  EXPECT_DOUBLE_EQ(s.rate_at(0), 1.0);
  EXPECT_DOUBLE_EQ(s.rate_at(25), 0.55);
}

TEST(Schedule, MayHaveNothingBehindTheWarmup) {
  Schedule s = schedule(DecayStyle::cosine);
  s.decay_samples = s.warmup_samples;
  EXPECT_DOUBLE_EQ(s.rate_at(10), 1.0);
  EXPECT_DOUBLE_EQ(s.rate_at(11), 0.1);
}

TEST(Schedule, TakesLengthsInAnyUnit) {
  TrainConfig config;
  config.model.seq_length = 16;
  config.batch.global = 4;
  config.batch.train_iterations = 100;
  EXPECT_EQ(lengths_in_samples(config).decay, 400);
  EXPECT_EQ(lengths_in_samples(config).warmup, 0);

  config.optimizer.warmup_fraction = 0.05;
  EXPECT_EQ(lengths_in_samples(config).warmup, 20);
  config.optimizer.warmup_fraction.reset();
  config.optimizer.warmup_iterations = 3;
  config.optimizer.decay_iterations = 50;
  EXPECT_EQ(lengths_in_samples(config).warmup, 12);
  EXPECT_EQ(lengths_in_samples(config).decay, 200);
  config.optimizer = {};
  config.optimizer.warmup_tokens = 160;
  config.optimizer.decay_tokens = 1600;
  EXPECT_EQ(lengths_in_samples(config).warmup, 10);
  EXPECT_EQ(lengths_in_samples(config).decay, 100);
  config.optimizer = {};
  config.optimizer.warmup_samples = 7;
  config.optimizer.decay_samples = 70;
  EXPECT_EQ(make_schedule(config).warmup_samples, 7);
  EXPECT_EQ(make_schedule(config).decay_samples, 70);
}

}  // namespace
}  // namespace xmoe
