#include "comm/same_program.h"

#include <algorithm>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/hash.h"
#include "comm/topology.h"

namespace xmoe {

namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 20;
// Runs of ranks that a message lists before it only counts the rest.
constexpr int kListed = 16;

std::string fingerprint_of_executable() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  std::vector<char> buffer(kReadBytes);
  if (!file) fail("/proc/self/exe cannot be read, which tells whether all ranks run the same program");
  StreamHash64 hash;
  std::int64_t size = 0;
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update(buffer.data(), static_cast<std::size_t>(file.gcount()));
    size += file.gcount();
  }
  return fmt::format("{} bytes, xxh3 {:016x}", size, hash.digest());
}

}  // namespace

std::string ranks_that_differ(const std::vector<std::string>& fingerprints,
                              const std::vector<std::string>& hosts) {
  std::map<std::string, int> counts;
  for (const auto& f : fingerprints) ++counts[f];
  const auto most =
      std::max_element(fingerprints.begin(), fingerprints.end(), [&](const auto& a, const auto& b) {
        return counts[a] < counts[b];  // the first of equals stays the greatest
      });
  std::string text;
  int listed = 0;
  int more = 0;
  for (std::size_t r = 0; r < fingerprints.size();) {
    std::size_t end = r + 1;
    if (fingerprints[r] != *most) {
      while (end < fingerprints.size() && fingerprints[end] == fingerprints[r] && hosts[end] == hosts[r])
        ++end;
      if (listed++ >= kListed) {
        more += static_cast<int>(end - r);
      } else {
        const std::string which =
            end - r == 1 ? fmt::format("rank {}", r) : fmt::format("ranks {}-{}", r, end - 1);
        text += fmt::format("{}{} on {}", text.empty() ? "" : ", ", which, hosts[r]);
      }
    }
    r = end;
  }
  if (more > 0) text += fmt::format(" and {} more", more);
  return text;
}

void expect_same_program(Communicator& world) {
  const auto programs = world.all_gather_text(fingerprint_of_executable());
  const auto hosts = world.all_gather_text(host_name());
  const std::string differing = ranks_that_differ(programs, hosts);
  if (differing.empty()) return;
  fail_everywhere(
      "ranks run different programs: {} started another executable than the other ranks: build or copy the "
      "same one "
      "on all hosts, and check the paths with which the launcher starts it",
      differing);
}

}  // namespace xmoe
