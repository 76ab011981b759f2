#include "train/trace.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "train/flag_table.h"

namespace xmoe {

namespace {

// 3 MB on a rank; a step of a deep model has a few thousand.
constexpr std::size_t kMaxEvents = 128 * 1024;

// The events of every rank, on rank 0; elsewhere nothing.
std::vector<TraceTrack> gather_tracks(Communicator& world, const Topology& topology,
                                      const profile::Events& mine) {
  static_assert(std::is_trivially_copyable_v<profile::Event>);
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<std::int64_t> counts(ranks);
  std::int64_t count = static_cast<std::int64_t>(mine.events.size());
  world.all_gather(Tensor(&count, DType::i64, {1}), Tensor(counts.data(), DType::i64, {world.size()}));
  std::vector<std::int64_t> lost(ranks);
  std::int64_t lost_here = mine.lost;
  world.all_gather(Tensor(&lost_here, DType::i64, {1}), Tensor(lost.data(), DType::i64, {world.size()}));

  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(profile::Event));
  std::vector<std::int64_t> send_rows(ranks, 0);
  std::vector<std::int64_t> recv_rows(ranks, 0);
  send_rows[0] = count;
  if (world.rank() == 0) recv_rows = counts;
  std::int64_t received = 0;
  for (const auto rows : recv_rows) received += rows;
  std::vector<profile::Event> send = mine.events;
  std::vector<profile::Event> recv(static_cast<std::size_t>(received));
  world.all_to_all_v(Tensor(send.data(), DType::u8, {count, kBytes}), send_rows,
                     Tensor(recv.data(), DType::u8, {received, kBytes}), recv_rows);
  std::vector<TraceTrack> tracks;
  if (world.rank() != 0) return tracks;
  auto next = recv.begin();
  for (std::size_t r = 0; r < ranks; ++r) {
    const auto node = static_cast<std::size_t>(topology.node_of[r]);
    tracks.push_back({.name = fmt::format("rank {} (node {})", r, topology.host_names[node]),
                      .events = {next, next + counts[r]},
                      .lost = lost[r]});
    next += counts[r];
  }
  return tracks;
}

}  // namespace

std::string trace_json(const std::vector<TraceTrack>& tracks) {
  // Written by hand: a tree of a million events would need many times their memory.
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  const char* separator = "\n";
  const auto metadata = [&](std::size_t rank, const char* what, const std::string& arguments) {
    text += fmt::format(R"({}{{"ph": "M", "pid": {}, "tid": 0, "name": "{}", "args": {{{}}}}})", separator,
                        rank, what, arguments);
    separator = ",\n";
  };
  for (std::size_t rank = 0; rank < tracks.size(); ++rank) {
    const TraceTrack& track = tracks[rank];
    // A TOML string of a host's name is a JSON string, too.
    metadata(rank, "process_name", "\"name\": " + toml_string(track.name));
    metadata(rank, "process_sort_index", fmt::format("\"sort_index\": {}", rank));
    metadata(rank, "thread_name", "\"name\": \"activities\"");
    if (track.lost > 0) metadata(rank, "events_lost", fmt::format("\"count\": {}", track.lost));
    for (const profile::Event& event : track.events) {
      constexpr double kMicro = 1e-3;  // of a nanosecond
      text +=
          fmt::format(R"({}{{"ph": "X", "pid": {}, "tid": 0, "name": "{}", "ts": {:.3f}, "dur": {:.3f})",
                      separator, rank, name_of(event.activity), static_cast<double>(event.begin_ns) * kMicro,
                      static_cast<double>(event.end_ns - event.begin_ns) * kMicro);
      if (event.layer >= 0) text += fmt::format(R"(, "args": {{"layer": {}}})", event.layer);
      text += "}";
    }
  }
  return text + "\n]}\n";
}

void prepare_trace_file(const std::filesystem::path& file) {
  try {
    if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
    const bool existed = std::filesystem::exists(file);
    std::FILE* opened = std::fopen(file.c_str(), "a");
    if (opened == nullptr)
      fail("--trace {} cannot be written: {}; choose another file", file.string(), std::strerror(errno));
    std::fclose(opened);
    if (!existed) std::filesystem::remove(file);
  } catch (const std::filesystem::filesystem_error& error) {
    fail("--trace {} cannot be written: {}; choose another file", file.string(), error.code().message());
  }
}

void TraceRecorder::before_iteration(std::int64_t iteration, Communicator& world) {
  if (iteration != begin_) return;
  if (!keep_profiling_) profile::enable(true);
  // Clocks of nodes differ: the end of a barrier, which all ranks see within microseconds, is time zero.
  world.barrier();
  profile::record_events(kMaxEvents);
  begun_ = recording_ = true;
}

void TraceRecorder::after_iteration(std::int64_t iteration, Communicator& world, const Topology& topology) {
  if (iteration + 1 == end_) finish(world, topology);
}

void TraceRecorder::finish(Communicator& world, const Topology& topology) {
  if (!begun_ && world.rank() == 0)
    log::warning("--trace {}: nothing is written, the run ended before its iteration {} (--trace-begin)",
                 file_.string(), begin_);
  if (!recording_) return;
  recording_ = false;
  const profile::Events mine = profile::take_events();
  if (!keep_profiling_) profile::enable(false);
  const auto tracks = gather_tracks(world, topology, mine);
  if (world.rank() != 0) return;
  try {
    write_file_atomically(file_, trace_json(tracks));
    log::info("trace: {}, for ui.perfetto.dev or chrome://tracing", file_.string());
  } catch (const Error& error) {
    log::warning("{}; the training goes on without --trace", error.what());
  }
}

}  // namespace xmoe
