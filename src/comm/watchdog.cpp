#include "comm/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "comm/mpi_backend.h"

namespace xmoe {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kInterval(100);
// A collective this old is looked into: most are over long before.
constexpr double kOld = 0.4;
// How long after a stop the note comes. mpirun kills what it asked to stop after a second.
constexpr double kNote = 0.7;
// Ranks come to their conclusions together; each gets the time to say where it is before one ends all, and
// before one that left is taken for the one that died first.
constexpr std::chrono::milliseconds kLastWords(500);

double seconds_since(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

std::string first_line(const char* path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

// When a process of this machine started, in clock ticks since boot; "dead" for one that has ended without
// its parent having taken notice; empty if /proc does not tell.
std::string start_of(long process) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", process).c_str());
  const auto name_end = line.rfind(')');  // names may contain spaces and parentheses
  if (name_end == std::string::npos) return {};
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; fields >> field; ++i) {  // numbered as in proc(5)
    if (i == 3 && (field == "Z" || field == "X")) return "dead";
    if (i == 22) return field;
  }
  return {};
}

// Only on proof: that /proc cannot be read, for want of file descriptors say, is none.
bool has_died(long process, const std::string& started) {
  if (::kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH) return true;
  const std::string now = start_of(process);
  return !now.empty() && now != started;
}

// Processes with the same text see each other in /proc.
std::string process_space() {
  std::error_code ignored;
  return first_line("/proc/sys/kernel/random/boot_id") + ' ' +
         std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string();
}

[[noreturn]] void leave(const std::string& message) {
  log::error("{}", message);
  std::this_thread::sleep_for(kLastWords);
  std::_Exit(1);
}

}  // namespace

Watchdog::Watchdog(Communicator& world, WatchdogOptions options)
    : options_(std::move(options)), rank_(world.rank()) {
  const std::string space = process_space();
  const auto all = world.all_gather_text(
      fmt::format("{} {} {}", static_cast<long>(::getpid()), start_of(::getpid()), space));
  for (int r = 0; r < world.size(); ++r) {
    std::istringstream text(all[static_cast<std::size_t>(r)]);
    Neighbour neighbour{.rank = r, .process = 0, .started = {}};
    std::string its_space;
    text >> neighbour.process >> neighbour.started >> std::ws;
    std::getline(text, its_space);
    if (r != rank_ && its_space == space && text) neighbours_.push_back(neighbour);
  }
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kInterval, [this] { return end_; })) {
    lock.unlock();
    look();
    lock.lock();
  }
}

void Watchdog::look() {
  if (!stopped_ && options_.stopping && options_.stopping()) stopped_ = Clock::now();
  const auto pending = pending_collective();
  if (!pending) return;
  if (!pending->failure.empty()) {
    // The usual reason is a rank that died; a connection closes before the process has ended.
    std::this_thread::sleep_for(kLastWords);
    look_for_the_dead(*pending);
    leave(pending->failure);
  }
  if (pending->seconds > kOld) look_for_the_dead(*pending);
  if (pending->patient) return;
  if (stopped_) after_stop(*pending);
  if (options_.limit_seconds <= 0 || pending->seconds < options_.limit_seconds) return;
  if (pending->serial == reported_) return;
  reported_ = pending->serial;
  const std::string message = fmt::format(
      "has been waiting for {:.1f} s in {}: a rank that does not say this itself did not get there",
      pending->seconds, describe(*pending));
  if (options_.on_hang) {
    options_.on_hang(message);
    return;
  }
  log::error("{}", message);
  std::this_thread::sleep_for(kLastWords);
  mpi::abort(1);
}

void Watchdog::look_for_the_dead(const PendingCollective& pending) const {
  const auto dead = std::find_if(neighbours_.begin(), neighbours_.end(),
                                 [](const Neighbour& n) { return has_died(n.process, n.started); });
  if (dead == neighbours_.end()) return;
  leave(fmt::format("rank {} (process {}) has died while this rank waits in {}", dead->rank, dead->process,
                    describe(pending)));
}

void Watchdog::after_stop(const PendingCollective& pending) {
  const double waited = std::min(pending.seconds, seconds_since(*stopped_));
  if (waited >= kNote && !noted_) {
    noted_ = true;
    // From every rank, and no error: an orderly stop waits for slow ranks too.
    const std::string note = fmt::format(
        "xmoe: rank {}: asked to stop while waiting in {}; if this does not end, another rank has died\n",
        rank_, describe(pending));
    std::fwrite(note.data(), 1, note.size(), stderr);
  }
  if (waited > options_.stop_seconds) {
    leave(fmt::format("asked to stop {:.0f} s ago and still waiting in {}: another rank has probably died",
                      seconds_since(*stopped_), describe(pending)));
  }
}

}  // namespace xmoe
