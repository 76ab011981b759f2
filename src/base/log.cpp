#include "base/log.h"

#include <cstdio>

namespace xmoe::log {

namespace {
int current_rank = 0;
int current_world = 1;

void write(const std::string& line) {
  // One write per message, so that the lines of several ranks do not mix.
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}
}  // namespace

void set_rank(int rank, int world_size) {
  current_rank = rank;
  current_world = world_size;
}

int rank() { return current_rank; }

void write_info(const std::string& message) {
  if (current_rank == 0) write(message + "\n");
}

void write_warning(const std::string& message) {
  if (current_rank == 0) write("warning: " + message + "\n");
}

void write_error(const std::string& message) {
  const std::string who =
      current_world > 1 ? fmt::format("xmoe: rank {}: error: ", current_rank) : "xmoe: error: ";
  write(who + message + "\n");
}

}  // namespace xmoe::log
