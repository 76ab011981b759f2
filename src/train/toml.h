// The part of TOML that settings need, read strictly: tables, bare and quoted keys, strings, numbers,
// booleans, arrays of these (also over several lines), comments. What is outside of it, and what is
// malformed, is an error with file and line.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace xmoe {

struct TomlSetting {
  std::string table;  // empty above the first one
  std::string key;
  std::vector<std::string>
      values;  // one, or the elements of an array; strings without quotes, numbers without '_'
  int line = 0;
};

// In the order of the file. `name` is what messages call it. Throws Error.
std::vector<TomlSetting> parse_toml(std::string_view text, const std::string& name);

}  // namespace xmoe
