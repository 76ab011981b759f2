#include "cli/flag_options.h"

#include <algorithm>
#include <sstream>

#include "train/together.h"

namespace xmoe {

namespace {

// The values behind the last occurrence of a flag with many, as with flags of one: scripts override by
// appending. The library sets separators (empty texts) between occurrences where it is told to.
std::vector<std::string> last_occurrence(const std::vector<std::string>& values) {
  std::vector<std::string> last;
  bool behind_separator = false;
  for (const std::string& value : values) {
    const bool separator = CLI::detail::is_separator(value);
    if (!separator) {
      if (behind_separator) last.clear();
      last.push_back(value);
    }
    behind_separator = separator;
  }
  return last;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The lines of `a` that `b` lacks, in one.
std::string lines_without(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::string text;
  for (const std::string& line : a)
    if (std::find(b.begin(), b.end(), line) == b.end()) text += (text.empty() ? "" : ", ") + line;
  return text.empty() ? "nothing" : text;
}

}  // namespace

FlagOptions::FlagOptions(CLI::App& command, FlagTable table) : command_(command), table_(std::move(table)) {
  command_.allow_extras();  // so that all unknown flags are reported together, with suggestions
  command_
      .add_option("--config", files_,
                  "Settings from TOML files; a later file wins, the command line wins over all")
      ->type_name("FILE");
  for (const Flag& flag : table_.flags()) add_option(flag);
}

void FlagOptions::add_option(const Flag& flag) {
  std::string names;
  for (const std::string& name : flag.names) names += (names.empty() ? "--" : ",--") + name;
  const std::string& name = flag.names.front();
  CLI::Option* option = nullptr;
  if (flag.arity == Arity::none) {
    option = command_.add_flag_function(
        names,
        [this, name](std::int64_t count) {
          given_.push_back({name, {count > 0 ? "true" : "false"}});
        },
        flag.help);
  } else {
    option = command_.add_option(
        names,
        [this, name, many = flag.arity == Arity::many](const CLI::results_t& values) {
          given_.emplace_back(name, many ? last_occurrence(values) : values);
          return true;
        },
        flag.help);
    option->type_name(flag.value_name + (flag.required ? " REQUIRED" : ""));
    if (!flag.default_text.empty()) option->default_str(flag.default_text);
  }
  option->group(flag.group);
  if (flag.arity == Arity::many) {
    option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
    option->inject_separator();
  } else {
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
}

void FlagOptions::apply() {
  for (const std::string& file : files_) table_.assign_file(file);
  for (const auto& [name, values] : given_) table_.assign(name, values, kCommandLine);
  assign_unknown(command_.remaining());
}

void FlagOptions::expect_same(Communicator& world) const {
  const std::string text = table_.to_toml();
  const std::string first = world.all_gather_text(text).front();
  std::string problem;
  if (text != first)
    problem = fmt::format(
        "the settings are not those of rank 0: {} here, {} there; give all ranks the same flags and files",
        lines_without(lines_of(text), lines_of(first)), lines_without(lines_of(first), lines_of(text)));
  fail_together(world, problem);
}

void FlagOptions::assign_unknown(const std::vector<std::string>& arguments) {
  bool behind_flag = false;  // words behind an unknown flag are taken for its values
  for (const std::string& argument : arguments) {
    if (argument.rfind("--", 0) == 0) {
      table_.assign(argument.substr(2, argument.find('=') - 2), {}, kCommandLine);
      behind_flag = true;
    } else if (!behind_flag) {
      table_.reject(argument, "is not expected: values stand behind a --flag");
    }
  }
}

}  // namespace xmoe
