// What a training reports: Megatron's iteration line on standard output, and the same figures as JSON lines
// in a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/progress.h"
#include "train/breakdown.h"

namespace xmoe {

// Figures of one iteration, or means over those since the last report where the field says so.
struct IterationMetrics {
  std::int64_t iteration = 0;
  std::int64_t iterations = 0;  // of the whole training
  std::int64_t consumed_samples = 0;
  std::int64_t consumed_tokens = 0;
  std::int64_t global_batch = 0;
  double lm_loss = 0.0;   // mean since the last report, per token; NaN if no iteration had one
  double aux_loss = 0.0;  // with its coefficient; mean since the last report
  double z_loss = 0.0;    // likewise
  double learning_rate = 0.0;
  double grad_norm = 0.0;          // before clipping
  double loss_scale = 1.0;         // of the next iteration
  double step_ms = 0.0;            // mean since the last report
  double tokens_per_second = 0.0;  // of all ranks together
  // Useful model FLOPs only (active experts' kept rows, causal attention as half) per second and rank, in
  // 10^12.
  double tflops_per_device = 0.0;
  // The same as X-MoE counts: whole square of attention, all T * k rows, dropped ones too.
  double tflops_per_device_xmoe = 0.0;
  double dropped_fraction = 0.0;           // assignments dropped for capacity / all assignments
  double expert_load_max_over_mean = 0.0;  // mean over the MoE layers; 0: a dense model
  std::int64_t skipped_iterations = 0;     // since the last report
  std::int64_t nan_iterations = 0;         // likewise; those skipped for more than a loss scale too large
  std::optional<double> seconds_left;      // of the whole training; in the line only
  std::optional<Breakdown> breakdown;      // in the file; a table of its own behind the line
};

struct ValidationMetrics {
  std::int64_t iteration = 0;
  std::int64_t consumed_tokens = 0;
  double lm_loss = 0.0;  // mean per token
  std::optional<double> bits_per_byte;
};

// Megatron's line; what Megatron does not report stands behind what it does. "TFLOPs", which scripts of X-MoE
// look for, is counted as X-MoE counts.
std::string iteration_line(const IterationMetrics& metrics, const std::string& date);
std::string validation_line(const ValidationMetrics& metrics);
std::string metrics_json(const IterationMetrics& metrics);  // one line without its end
std::string metrics_json(const ValidationMetrics& metrics);

// Reports from rank 0; on other ranks it does nothing. A metrics file that cannot be opened keeps a training
// from starting; one that can no longer be written is reported once and given up: a training does not die of
// its log.
class MetricsReporter {
 public:
  // `file` may be empty. Goes on behind `resumed_iteration`: later lines, of a run that did not get to save
  // them, are cut. At iteration 0 a file that exists is kept under the name FILE.old. Throws Error on rank 0
  // if the file cannot be opened.
  MetricsReporter(std::filesystem::path file, std::int64_t resumed_iteration);
  ~MetricsReporter();
  MetricsReporter(const MetricsReporter&) = delete;
  MetricsReporter& operator=(const MetricsReporter&) = delete;

  // `progress` is wiped before the line is printed; may be null.
  void report(const IterationMetrics& metrics, Progress* progress);
  void report(const ValidationMetrics& metrics, Progress* progress);

 private:
  void prepare_file(std::int64_t resumed_iteration);
  void print(const std::string& line, Progress* progress);
  void append(const std::string& json);
  void give_up(const std::string& what);

  std::filesystem::path file_;
  int descriptor_ = -1;
};

}  // namespace xmoe
