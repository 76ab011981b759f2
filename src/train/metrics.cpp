#include "train/metrics.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "train/signals.h"

namespace xmoe {

namespace {

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 32> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local);
  return {text.data(), length};
}

// The lines of `text` up to `last_iteration`. A line that cannot be parsed is the torn end of a run that was
// killed.
std::string lines_up_to(std::string_view text, std::int64_t last_iteration) {
  std::string kept;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("iteration") || !json["iteration"].is_number_integer()) continue;
    if (json["iteration"].get<std::int64_t>() > last_iteration) continue;
    (kept += line) += '\n';
  }
  return kept;
}

// One digit behind the point as Megatron prints it, and below 1 three that say something.
std::string throughput_text(double tflops) {
  if (!(tflops > 0.0 && tflops < 1.0)) return fmt::format("{:.1f}", tflops);
  constexpr int kMaxDigits = 9;  // below a thousand operations a second it is zero
  const int digits = std::min(kMaxDigits, 2 - static_cast<int>(std::floor(std::log10(tflops))));
  return fmt::format("{:.{}f}", tflops, digits);
}

}  // namespace

std::string iteration_line(const IterationMetrics& m, const std::string& date) {
  std::string line = fmt::format(" [{}] iteration {:8d}/{:8d} |", date, m.iteration, m.iterations);
  line += fmt::format(" consumed samples: {:12d} |", m.consumed_samples);
  line += fmt::format(" elapsed time per iteration (ms): {:.1f} |", m.step_ms);
  line += fmt::format(" throughput per GPU (TFLOP/s/GPU): {} |", throughput_text(m.tflops_per_device));
  line += fmt::format(" learning rate: {:.6E} |", m.learning_rate);
  line += fmt::format(" global batch size: {:5d} |", m.global_batch);
  line += fmt::format(" lm loss: {:.6E} |", m.lm_loss);
  if (m.expert_load_max_over_mean > 0.0) {
    line += fmt::format(" load_balancing_loss: {:.6E} |", m.aux_loss);
    line += fmt::format(" z_loss: {:.6E} |", m.z_loss);
  }
  line += fmt::format(" loss scale: {:.1f} |", m.loss_scale);
  line += fmt::format(" grad norm: {:.3f} |", m.grad_norm);
  line += fmt::format(" number of skipped iterations: {:3d} |", m.skipped_iterations);
  line += fmt::format(" number of nan iterations: {:3d} |", m.nan_iterations);
  line += fmt::format(" tokens per second: {:.1f} |", m.tokens_per_second);
  line += fmt::format(" TFLOPs: {:.4f} |", m.tflops_per_device_xmoe);
  if (m.expert_load_max_over_mean > 0.0) {
    line += fmt::format(" dropped: {:.2f} % |", 100.0 * m.dropped_fraction);
    line += fmt::format(" expert load max/mean: {:.2f} |", m.expert_load_max_over_mean);
  }
  if (m.seconds_left) line += fmt::format(" ETA: {} |", format_duration(*m.seconds_left));
  return line;
}

std::string validation_line(const ValidationMetrics& m) {
  std::string line =
      fmt::format(" validation loss at iteration {} | lm loss value: {:.6E} | lm loss PPL: {:.6E} |",
                  m.iteration, m.lm_loss, std::exp(m.lm_loss));
  if (m.bits_per_byte) line += fmt::format(" bits per byte: {:.4f} |", *m.bits_per_byte);
  return line;
}

std::string metrics_json(const IterationMetrics& m) {
  nlohmann::ordered_json json = {
      {"iteration", m.iteration},
      {"consumed_samples", m.consumed_samples},
      {"consumed_tokens", m.consumed_tokens},
      {"lm_loss", m.lm_loss},
      {"aux_loss", m.aux_loss},
      {"z_loss", m.z_loss},
      {"learning_rate", m.learning_rate},
      {"grad_norm", m.grad_norm},
      {"loss_scale", m.loss_scale},
      {"global_batch_size", m.global_batch},
      {"tokens_per_second", m.tokens_per_second},
      {"tflops_per_device", m.tflops_per_device},
      {"tflops_per_device_xmoe", m.tflops_per_device_xmoe},
      {"dropped_fraction", m.dropped_fraction},
      {"expert_load_max_over_mean", m.expert_load_max_over_mean},
      {"step_ms", m.step_ms},
      {"skipped_iterations", m.skipped_iterations},
      {"nan_iterations", m.nan_iterations},
  };
  if (m.breakdown) json.update(nlohmann::ordered_json::parse(breakdown_json(*m.breakdown)));
  return json.dump();  // what is not finite becomes null
}

std::string metrics_json(const ValidationMetrics& m) {
  nlohmann::ordered_json json = {
      {"iteration", m.iteration},
      {"consumed_tokens", m.consumed_tokens},
      {"validation_loss", m.lm_loss},
      {"validation_perplexity", std::exp(m.lm_loss)},
  };
  if (m.bits_per_byte) json["validation_bits_per_byte"] = *m.bits_per_byte;
  return json.dump();
}

MetricsReporter::MetricsReporter(std::filesystem::path file, std::int64_t resumed_iteration)
    : file_(std::move(file)) {
  if (file_.empty() || log::rank() != 0) return;
  const auto refuse = [&](const std::string& why) {
    fail("--metrics-file {} cannot be opened: {}; choose another file", file_.string(), why);
  };
  try {
    prepare_file(resumed_iteration);
  } catch (const std::filesystem::filesystem_error& error) {
    refuse(error.code().message());
  }
  descriptor_ =
      uninterrupted([&] { return open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666); });
  if (descriptor_ < 0) refuse(std::strerror(errno));
}

MetricsReporter::~MetricsReporter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void MetricsReporter::prepare_file(std::int64_t resumed_iteration) {
  if (file_.has_parent_path()) std::filesystem::create_directories(file_.parent_path());
  if (!std::filesystem::exists(file_) || !std::filesystem::is_regular_file(file_)) return;
  if (std::filesystem::file_size(file_) == 0) return;
  if (resumed_iteration == 0) {
    std::filesystem::path kept = file_;
    kept += ".old";
    std::filesystem::rename(file_, kept);
    log::info("{} is of an earlier training: kept as {}", file_.string(), kept.string());
    return;
  }
  const std::string text = read_text_file(file_);
  const std::string kept = lines_up_to(text, resumed_iteration);
  if (kept != text) write_file_atomically(file_, kept);
}

void MetricsReporter::print(const std::string& line, Progress* progress) {
  if (log::rank() != 0) return;
  if (progress != nullptr) progress->clear();
  // After a signal to stop the launcher may not read any more: what finds no room is left out, the checkpoint
  // is worth more.
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  if (stop_signal() != 0 && poll(&output, 1, 0) != 1) return;
  // Not through stdio: what a signal interrupts would stay in its buffer, and the next flush would wait for
  // the launcher again.
  const std::string text = line + "\n";
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (n < 0 && errno != EINTR) return;
    done += n < 0 ? 0 : static_cast<std::size_t>(n);
    if (stop_signal() != 0) return;
  }
}

void MetricsReporter::append(const std::string& json) {
  if (descriptor_ < 0) return;
  // In one write where the system takes it whole: a reader then never sees half a line, and a crash loses at
  // most the last.
  const std::string line = json + "\n";
  if (write_fully(descriptor_, line) < line.size())
    give_up(fmt::format("{}: cannot be written: {}", file_.string(), std::strerror(errno)));
}

void MetricsReporter::give_up(const std::string& what) {
  log::warning("{}; the training goes on without --metrics-file", what);
  if (descriptor_ >= 0) close(descriptor_);
  descriptor_ = -1;
}

void MetricsReporter::report(const IterationMetrics& metrics, Progress* progress) {
  print(iteration_line(metrics, date_now()), progress);
  if (metrics.breakdown) print(breakdown_table(*metrics.breakdown), progress);
  append(metrics_json(metrics));
}

void MetricsReporter::report(const ValidationMetrics& metrics, Progress* progress) {
  print(validation_line(metrics), progress);
  append(metrics_json(metrics));
}

}  // namespace xmoe
