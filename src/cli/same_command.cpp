#include "cli/same_command.h"

#include <algorithm>

#include "train/together.h"

namespace xmoe {

namespace {

// "--lr 1e-3" and the like; what stands before the first flag is one piece each.
std::vector<std::string> pieces_of(const std::vector<std::string>& arguments) {
  std::vector<std::string> pieces;
  bool behind_flag = false;
  for (const std::string& argument : arguments) {
    const bool flag = argument.starts_with("--");
    if (!flag && behind_flag) {
      pieces.back() += " " + argument;
    } else {
      pieces.push_back(argument);
    }
    behind_flag = behind_flag || flag;
  }
  return pieces;
}

std::string joined(const std::vector<std::string>& arguments) {
  std::string text;
  for (const std::string& argument : arguments) (text += argument) += '\0';
  return text;
}

std::vector<std::string> parted(const std::string& text) {
  std::vector<std::string> arguments;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\0', begin);
    arguments.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return arguments;
}

}  // namespace

std::string arguments_without(const std::vector<std::string>& arguments,
                              const std::vector<std::string>& others) {
  const std::vector<std::string> pieces = pieces_of(arguments);
  const std::vector<std::string> there = pieces_of(others);
  std::string text;
  for (const std::string& piece : pieces)
    if (std::find(there.begin(), there.end(), piece) == there.end())
      text += (text.empty() ? "" : " ") + piece;
  return text.empty() ? "nothing" : text;
}

void expect_same_command(Communicator& world, const std::vector<std::string>& arguments) {
  if (world.size() == 1) return;
  const std::vector<std::string> first = parted(world.all_gather_text(joined(arguments)).front());
  std::string problem;
  if (arguments != first)
    problem = fmt::format(
        "started with other arguments than rank 0: '{}' here, '{}' there; start all ranks with the same",
        arguments_without(arguments, first), arguments_without(first, arguments));
  fail_together(world, problem);
}

}  // namespace xmoe
