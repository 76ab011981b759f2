// A progress line with an estimate of the time left: redrawn in place on a terminal, a line every few seconds
// in a log.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/timer.h"

namespace xmoe {

class Progress {
 public:
  // `unit` is shown behind the counts ("MB", "iterations"); `scale` divides them before they are shown.
  // `start` is how much was done before, by an earlier run: it counts for the share done, not for the speed.
  Progress(std::string label, std::int64_t total, std::string unit, double scale = 1.0,
           std::int64_t start = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `note` is appended to the line. Cheap when nothing is due to be shown.
  void update(std::int64_t done, const std::string& note = {});
  // Seconds that the rest takes at the speed so far; nothing before there is one.
  std::optional<double> seconds_left(std::int64_t done) const;
  void finish();  // ends the line; also done by the destructor
  void clear();   // wipes the line so that another message can be printed

 private:
  void draw(std::int64_t done, const std::string& note);

  std::string label_;
  std::int64_t total_;
  std::string unit_;
  double scale_;
  std::int64_t start_;
  bool terminal_;
  bool drawn_ = false;
  double last_shown_ = -1e9;
  Timer timer_;
};

std::string format_duration(double seconds);  // "1:02:03", "4:05", "12 s"

}  // namespace xmoe
