#include "cli/flag_options.h"

namespace xmoe {

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
        [this, name](const CLI::results_t& values) {
          given_.emplace_back(name, values);
          return true;
        },
        flag.help);
    option->type_name(flag.value_name);
    if (!flag.default_text.empty()) option->default_str(flag.default_text);
  }
  option->group(flag.group);
  if (flag.arity == Arity::many) {
    option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
  } else {
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
}

void FlagOptions::apply() {
  for (const std::string& file : files_) table_.assign_file(file);
  for (const auto& [name, values] : given_) table_.assign(name, values, kCommandLine);
  assign_unknown(command_.remaining());
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
