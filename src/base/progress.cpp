#include "base/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/log.h"

namespace xmoe {

namespace {

constexpr double kTerminalPeriod = 0.2;  // seconds: smooth to the eye, negligible to the program
constexpr double kLogPeriod = 10.0;      // seconds: a log file should stay readable

// Not fmt::print, which throws when a signal interrupts it: work does not end because its progress cannot be
// shown.
void write(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace

std::string format_duration(double seconds) {
  const auto s = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02d}", s / 60, s % 60);
  return fmt::format("{}:{:02d}:{:02d}", s / 3600, s / 60 % 60, s % 60);
}

Progress::Progress(std::string label, std::int64_t total, std::string unit, double scale, std::int64_t start)
    : label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      scale_(scale),
      start_(start),
      terminal_(isatty(STDERR_FILENO) != 0) {
  if (!terminal_) last_shown_ = 0.0;
}

Progress::~Progress() { finish(); }

void Progress::update(std::int64_t done, const std::string& note) {
  if (log::rank() != 0) return;
  if (timer_.seconds() - last_shown_ < (terminal_ ? kTerminalPeriod : kLogPeriod)) return;
  last_shown_ = timer_.seconds();
  draw(done, note);
}

void Progress::draw(std::int64_t done, const std::string& note) {
  std::string line =
      total_ > 0 ? fmt::format("{}: {:.0f} of {:.0f} {} ({:.0f} %)", label_,
                               static_cast<double>(done) / scale_, static_cast<double>(total_) / scale_,
                               unit_, 100.0 * static_cast<double>(done) / static_cast<double>(total_))
                 : fmt::format("{}: {:.0f} {}", label_, static_cast<double>(done) / scale_, unit_);
  if (const auto left = seconds_left(done)) line += fmt::format(", {} left", format_duration(*left));
  if (!note.empty()) line += ", " + note;
  if (terminal_) {
    write("\r\033[K" + line);
    drawn_ = true;
  } else {
    write(line + "\n");
  }
  std::fflush(stderr);
}

std::optional<double> Progress::seconds_left(std::int64_t done) const {
  if (total_ <= 0 || done <= start_) return std::nullopt;
  return timer_.seconds() * static_cast<double>(total_ - done) / static_cast<double>(done - start_);
}

void Progress::clear() {
  if (!drawn_) return;
  write("\r\033[K");
  drawn_ = false;
}

void Progress::finish() { clear(); }

}  // namespace xmoe
