#include "train/flag_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "train/toml.h"

namespace xmoe {

namespace {

std::vector<std::string> split_names(std::string_view names) {
  std::vector<std::string> result;
  for (;;) {
    const std::size_t bar = names.find('|');
    result.emplace_back(names.substr(0, bar));
    if (bar == std::string_view::npos) return result;
    names.remove_prefix(bar + 1);
  }
}

template <typename T>
bool parse_number(const std::string& text, T& value) {
  T parsed{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, parsed);
  if (error != std::errc() || stop != end) return false;
  value = parsed;
  return true;
}

std::string number_text(double value) {
  return fmt::format("{}", value);  // the shortest text that reads back to the same value
}

std::string read_real(const std::vector<std::string>& given, const Bounds& bounds, double& value) {
  double parsed = 0.0;
  if (!parse_number(given.front(), parsed) || !std::isfinite(parsed))
    return fmt::format("'{}' is not a number", given.front());
  value = parsed;
  if (!bounds.contain(parsed))
    return fmt::format("{} is out of range: expected {}", given.front(), bounds.text());
  return {};
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

}  // namespace

bool Bounds::contain(double value) const {
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

std::string Bounds::text() const {
  std::string text;
  if (std::isfinite(low)) text = fmt::format("{} {}", low_open ? "above" : "at least", low);
  if (std::isfinite(high))
    text += fmt::format("{}{} {}", text.empty() ? "" : " and ", high_open ? "below" : "at most", high);
  return text;
}

void FlagTable::integer(std::string_view names, std::int64_t& field, std::string help, const Bounds& bounds) {
  Flag flag;
  flag.value_name = "N";
  flag.help = std::move(help);
  flag.read = [&field, bounds](const std::vector<std::string>& given) -> std::string {
    if (!parse_number(given.front(), field)) return fmt::format("'{}' is not an integer", given.front());
    if (!bounds.contain(static_cast<double>(field)))
      return fmt::format("{} is out of range: expected {}", given.front(), bounds.text());
    return {};
  };
  // A field that was never set may hold what the flag would not accept: it stays unset in the text, too.
  flag.show = [&field, bounds] {
    return bounds.contain(static_cast<double>(field)) ? fmt::format("{}", field) : std::string();
  };
  add(names, std::move(flag));
}

void FlagTable::seed(std::string_view names, std::uint64_t& field, std::string help) {
  Flag flag;
  flag.value_name = "N";
  flag.help = std::move(help);
  flag.read = [&field](const std::vector<std::string>& given) -> std::string {
    if (!parse_number(given.front(), field))
      return fmt::format("'{}' is not an integer of at least 0", given.front());
    return {};
  };
  flag.show = [&field] { return fmt::format("{}", field); };
  add(names, std::move(flag));
}

void FlagTable::real(std::string_view names, double& field, std::string help, const Bounds& bounds) {
  Flag flag;
  flag.value_name = "X";
  flag.help = std::move(help);
  flag.read = [&field, bounds](const std::vector<std::string>& given) {
    return read_real(given, bounds, field);
  };
  flag.show = [&field, bounds] { return bounds.contain(field) ? number_text(field) : std::string(); };
  add(names, std::move(flag));
}

void FlagTable::real(std::string_view names, std::optional<double>& field, std::string help,
                     const Bounds& bounds) {
  Flag flag;
  flag.value_name = "X";
  flag.help = std::move(help);
  flag.read = [&field, bounds](const std::vector<std::string>& given) {
    double value = 0.0;
    std::string problem = read_real(given, bounds, value);
    if (problem.empty()) field = value;
    return problem;
  };
  flag.show = [&field] { return field ? number_text(*field) : std::string(); };
  add(names, std::move(flag));
}

void FlagTable::path(std::string_view names, std::filesystem::path& field, std::string value_name,
                     std::string help) {
  Flag flag;
  flag.value_name = std::move(value_name);
  flag.help = std::move(help);
  flag.read = [&field](const std::vector<std::string>& given) {
    field = given.front();
    return std::string();
  };
  flag.show = [&field] { return field.empty() ? std::string() : toml_string(field.string()); };
  add(names, std::move(flag));
}

void FlagTable::add(std::string_view names, Flag flag) {
  flag.names = split_names(names);
  flag.group = group_;
  flag.role = role_;
  for (const std::string& name : flag.names)
    XMOE_CHECK(find(name) == nullptr, "flag --{} is declared twice", name);
  if (flag.show && flag.arity != Arity::none) flag.default_text = flag.show();
  flags_.push_back(std::move(flag));
}

void FlagTable::satisfied(std::string_view names, Arity arity, const std::string& because) {
  Flag flag;
  flag.arity = arity;
  flag.value_name = arity == Arity::none ? "" : "VALUE";
  flag.help = "Accepted, changes nothing: " + because;
  flag.read = [](const std::vector<std::string>&) { return std::string(); };
  add(names, std::move(flag));
}

void FlagTable::only(std::string_view names, std::vector<std::string> values, const std::string& because) {
  std::string expected;
  for (const std::string& value : values) expected += (expected.empty() ? "" : "|") + value;
  Flag flag;
  flag.value_name = expected;
  flag.help = "Accepted with this value: " + because;
  flag.read = [values = std::move(values), expected, because](const std::vector<std::string>& given) {
    if (std::find(values.begin(), values.end(), given.front()) != values.end()) return std::string();
    return fmt::format("'{}' is not possible ({}): use {} or leave the flag out", given.front(), because,
                       expected);
  };
  add(names, std::move(flag));
}

void FlagTable::refused(std::string_view names, Arity arity, const std::string& reason) {
  Flag flag;
  flag.arity = arity;
  flag.value_name = arity == Arity::none ? "" : "VALUE";
  flag.help = "Refused: " + reason;
  flag.read = [reason, arity](const std::vector<std::string>& given) {
    if (arity == Arity::none && given.front() == "false") return std::string();
    return "is refused: " + reason;
  };
  add(names, std::move(flag));
}

void FlagTable::require(std::string_view name) {
  Flag* flag = find_mutable(name);
  XMOE_CHECK(flag != nullptr, "--{} is not declared", name);
  flag->required = true;
}

void FlagTable::conflict(std::string first, std::string second, std::string value) {
  XMOE_CHECK(find(first) != nullptr && find(second) != nullptr, "conflict of --{} and --{}: not declared",
             first, second);
  conflicts_.push_back({std::move(first), std::move(second), std::move(value)});
}

const Flag* FlagTable::find(std::string_view name) const {
  for (const Flag& flag : flags_)
    if (std::find(flag.names.begin(), flag.names.end(), name) != flag.names.end()) return &flag;
  return nullptr;
}

Flag* FlagTable::find_mutable(std::string_view name) {
  const Flag* flag = find(name);
  return flag == nullptr ? nullptr : &flags_[static_cast<std::size_t>(flag - flags_.data())];
}

std::string FlagTable::unknown_message(std::string_view name) const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.insert(names.end(), flag.names.begin(), flag.names.end());
  const std::string near = nearest_name(name, names);
  return near.empty() ? "is not known: see --help" : fmt::format("is not known: did you mean --{}?", near);
}

void FlagTable::assign(std::string_view name, const std::vector<std::string>& values,
                       const std::string& source) {
  const std::string where = source == kCommandLine ? "" : fmt::format(" ({})", source);
  const auto problem = [&](const std::string& message) {
    problems_.push_back({std::string(name), message + where});
  };
  Flag* flag = find_mutable(name);
  if (flag == nullptr) return problem(unknown_message(name));
  if (values.empty() && flag->arity != Arity::many) return problem("has no value");
  if (values.size() > 1 && flag->arity != Arity::many)
    return problem(fmt::format("has {} values: expected one", values.size()));
  if (flag->arity == Arity::none && values.front() != "true" && values.front() != "false")
    return problem(fmt::format("'{}' is not possible: expected true or false", values.front()));
  flag->source = source;
  flag->given = values;
  if (std::string message = flag->read(values); !message.empty()) problem(message);
}

void FlagTable::assign_file(const std::filesystem::path& path) {
  assign_text(read_text_file(path), path.string());
}

void FlagTable::assign_text(std::string_view toml, const std::string& source) {
  std::vector<std::string> seen;
  for (const TomlSetting& setting : parse_toml(toml, source)) {
    std::string name = setting.key;
    std::replace(name.begin(), name.end(), '_', '-');
    if (std::find(seen.begin(), seen.end(), name) != seen.end())
      problems_.push_back({name, fmt::format("is set twice: keep one ({}, line {})", source, setting.line)});
    seen.push_back(name);
    assign(name, setting.values, source);
  }
}

std::vector<Problem> FlagTable::problems() const {
  std::vector<Problem> result = problems_;
  for (const Conflict& conflict : conflicts_) {
    const Flag* a = find(conflict.first);
    const Flag* b = find(conflict.second);
    const auto on = [](const Flag* flag) {
      return !flag->source.empty() && !(flag->arity == Arity::none && flag->given.front() == "false");
    };
    if (!on(a) || !on(b) || a->source != b->source) continue;
    if (!conflict.value.empty() && b->given.front() != conflict.value) continue;
    result.push_back({conflict.first, fmt::format("contradicts --{}{}{}: give one of them", conflict.second,
                                                  conflict.value.empty() ? "" : " ", conflict.value)});
  }
  return result;
}

std::vector<Problem> FlagTable::problems_with(const std::vector<Problem>& validation) const {
  std::vector<Problem> result = problems();
  const std::size_t own = result.size();
  for (const Problem& problem : validation) {
    const auto same_flag = [&](const Problem& other) {
      return find(other.flag) != nullptr && find(other.flag) == find(problem.flag);
    };
    const auto end = result.begin() + static_cast<std::ptrdiff_t>(own);
    if (std::none_of(result.begin(), end, same_flag)) result.push_back(problem);
  }
  return result;
}

std::string FlagTable::to_toml() const {
  std::string text;
  std::string group;
  for (const Flag& flag : flags_) {
    const std::string value = flag.show ? flag.show() : std::string();
    if (value.empty()) continue;
    if (flag.group != group) {
      group = flag.group;
      std::string table = group;
      std::transform(table.begin(), table.end(), table.begin(),
                     [](unsigned char c) { return c == ' ' ? '-' : static_cast<char>(std::tolower(c)); });
      text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", table);
    }
    text += fmt::format("{} = {}\n", flag.names.front(), value);
  }
  return text;
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& names) {
  std::string best;
  std::size_t best_distance = name.size() / 3 + 1;  // further away it is another word
  for (const std::string& candidate : names) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance > best_distance || (distance == best_distance && !best.empty())) continue;
    best_distance = distance;
    best = candidate;
  }
  return best;
}

std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
      case '\\':
        (result += '\\') += c;
        break;
      case '\n':
        result += "\\n";
        break;
      case '\t':
        result += "\\t";
        break;
      case '\r':
        result += "\\r";
        break;
      default:
        result += c;
    }
  }
  return result + "\"";
}

void fail_if_any(const std::vector<Problem>& problems) {
  if (problems.empty()) return;
  std::string text = problems.size() == 1 ? "the settings have a problem:"
                                          : fmt::format("the settings have {} problems:", problems.size());
  for (const Problem& problem : problems)
    text += fmt::format("\n  {}{} {}", problem.is_flag ? "--" : "", problem.flag, problem.message);
  throw Error(text, ErrorScope::every_rank);
}

}  // namespace xmoe
