// A timeline of some iterations for ui.perfetto.dev and chrome://tracing, a track per rank: --trace. The
// format is Chrome's "Trace Event Format": complete events ("ph": "X") with microseconds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/profile.h"
#include "comm/communicator.h"
#include "comm/topology.h"

namespace xmoe {

struct TraceTrack {
  std::string name;  // "rank 3 (node host)"
  std::vector<profile::Event> events;
  std::int64_t lost = 0;
};

// The file's text. Tracks are processes of the format, numbered by rank.
std::string trace_json(const std::vector<TraceTrack>& tracks);

// Throws Error when a trace could not be written there: before the training, not behind it.
void prepare_trace_file(const std::filesystem::path& file);

// Records the iterations of a run that a trace is to hold. All members but the constructor are collective.
class TraceRecorder {
 public:
  // Iterations begin ... begin + count - 1, counted from 1. `keep_profiling`: scopes are counted for another
  // reason, too.
  TraceRecorder(std::filesystem::path file, std::int64_t begin, std::int64_t count, bool keep_profiling)
      : file_(std::move(file)), begin_(begin), end_(begin + count), keep_profiling_(keep_profiling) {}

  void before_iteration(std::int64_t iteration, Communicator& world);
  // Rank 0 writes the file behind the last of the iterations; a file that cannot be written is a warning.
  void after_iteration(std::int64_t iteration, Communicator& world, const Topology& topology);
  // At the end of a run that may have ended before them; that nothing was traced is a warning.
  void finish(Communicator& world, const Topology& topology);

 private:
  std::filesystem::path file_;
  std::int64_t begin_, end_;
  bool keep_profiling_;
  bool begun_ = false;
  bool recording_ = false;
};

}  // namespace xmoe
