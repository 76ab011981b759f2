// An option that takes one of a few words.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <utility>
#include <vector>

namespace xmoe {

// The first choice is shown as the default. `value` must outlive the parsing.
template <typename T>
void add_choice(CLI::App& command, const std::string& name, T& value,
                const std::vector<std::pair<std::string, T>>& choices, const std::string& help) {
  std::string words;
  for (const auto& [word, chosen] : choices) words += (words.empty() ? "" : "|") + word;
  command
      .add_option_function<std::string>(
          name,
          [&value, name, choices, words](const std::string& given) {
            for (const auto& [word, chosen] : choices) {
              if (word != given) continue;
              value = chosen;
              return;
            }
            throw CLI::ValidationError(name, "found " + given + ", expected " + words);
          },
          help)
      ->type_name(words)
      ->default_str(choices.front().first);
}

}  // namespace xmoe
