// Flags: each is declared once, with its names, help, default and check, on the field that it fills. Command
// line, configuration files and --print-config all work from this table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/config.h"

namespace xmoe {

// An interval of numbers that a flag accepts.
struct Bounds {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;

  bool contain(double value) const;
  std::string text() const;  // "at least 1", "above 0 and below 1"
};
inline Bounds at_least(double low) { return {.low = low}; }
inline Bounds above(double low) { return {.low = low, .low_open = true}; }
inline Bounds between(double low, double high) { return {.low = low, .high = high}; }
inline Bounds from_up_to(double low, double high) { return {.low = low, .high = high, .high_open = true}; }

enum class Arity : std::uint8_t { none, one, many };  // values behind the flag

// What a flag decides: what the model is (its value must be that of the checkpoint when a training goes on),
// or how it is run.
enum class FlagRole : std::uint8_t { model, run };

struct Flag {
  std::vector<std::string> names;  // without dashes; the first one is the name in --print-config
  Arity arity = Arity::one;
  std::string value_name;  // in the help: "N", "FILE"
  std::string help;
  // Sets the field; returns what is wrong with the values, or nothing. A switch gets "true" or "false".
  std::function<std::string(const std::vector<std::string>& values)> read;
  std::function<std::string()> show;  // the field as a TOML value; empty: not to be printed

  bool required = false;           // the command does nothing without it
  std::string group;               // filled in by add()
  FlagRole role = FlagRole::run;   // likewise
  std::string default_text;        // what show() gave at declaration
  std::string source;              // where it was last given: "command line", a file; empty: nowhere
  std::vector<std::string> given;  // the values given there
};

inline constexpr const char* kCommandLine = "command line";  // as the source of a value

class FlagTable {
 public:
  // Names are separated by '|': "moe-router-topk|topk".
  void group(std::string title, FlagRole role = FlagRole::run) {
    group_ = std::move(title);
    role_ = role;
  }
  void integer(std::string_view names, std::int64_t& field, std::string help, const Bounds& bounds = {});
  void seed(std::string_view names, std::uint64_t& field, std::string help);
  void real(std::string_view names, double& field, std::string help, const Bounds& bounds = {});
  void real(std::string_view names, std::optional<double>& field, std::string help,
            const Bounds& bounds = {});
  void path(std::string_view names, std::filesystem::path& field, std::string value_name, std::string help);
  void add(std::string_view names, Flag flag);

  template <typename E>
  void choice(std::string_view names, E& field, std::vector<std::pair<std::string, E>> values,
              std::string help) {
    Flag flag;
    flag.help = std::move(help);
    for (const auto& value : values) flag.value_name += (flag.value_name.empty() ? "" : "|") + value.first;
    flag.read = [&field, values, expected = flag.value_name](const std::vector<std::string>& given) {
      for (const auto& [name, value] : values)
        if (name == given.front()) {
          field = value;
          return std::string();
        }
      return "'" + given.front() + "' is not known: expected one of " + expected;
    };
    flag.show = [&field, values] {
      for (const auto& [name, value] : values)
        if (value == field) return "\"" + name + "\"";
      return std::string();
    };
    add(names, std::move(flag));
  }

  // A switch that gives a field one value; "= false" in a file takes it back. `printed` is false for a second
  // name of a setting that has a flag of its own.
  template <typename T>
  void set(std::string_view names, T& field, T value, std::string help, bool printed = true) {
    Flag flag;
    flag.arity = Arity::none;
    flag.help = std::move(help);
    flag.read = [&field, value, initial = field](const std::vector<std::string>& given) {
      if (given.front() == "true") field = value;
      if (given.front() == "false" && field == value) field = initial;
      return std::string();
    };
    if (printed) flag.show = [&field, value] { return std::string(field == value ? "true" : "false"); };
    add(names, std::move(flag));
  }

  // Flags of other systems' scripts: what this system does anyway, what it does in one way only, and what it
  // does not do.
  void satisfied(std::string_view names, Arity arity, const std::string& because);
  void only(std::string_view names, std::vector<std::string> values, const std::string& because);
  void refused(std::string_view names, Arity arity, const std::string& reason);

  // Marks a declared flag in the help; that it is missing is found by validate().
  void require(std::string_view name);

  // Two flags that say opposite things when given in one place (the second one with `value`, or with any when
  // it is empty).
  void conflict(std::string first, std::string second, std::string value = {});

  const std::vector<Flag>& flags() const { return flags_; }
  const Flag* find(std::string_view name) const;

  // Sets a flag by any of its names. What is wrong is collected in problems().
  void assign(std::string_view name, const std::vector<std::string>& values, const std::string& source);
  void assign_file(const std::filesystem::path& path);  // TOML; throws Error when it cannot be read or parsed
  void assign_text(std::string_view toml, const std::string& source);

  // An argument of the command line that is no flag at all.
  void reject(const std::string& argument, const std::string& message) {
    problems_.push_back({argument, message, false});
  }

  std::vector<Problem> problems() const;
  // What validation found, without what concerns a flag that has a problem already.
  std::vector<Problem> problems_with(const std::vector<Problem>& validation) const;
  std::string to_toml() const;  // what assign_text() reads back

 private:
  struct Conflict {
    std::string first, second, value;
  };

  Flag* find_mutable(std::string_view name);
  std::string unknown_message(std::string_view name) const;

  std::string group_;
  FlagRole role_ = FlagRole::run;
  std::vector<Flag> flags_;
  std::vector<Conflict> conflicts_;
  std::vector<Problem> problems_;
};

// The name out of `names` that is closest to `name` by edit distance, or empty when none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& names);

// `text` as a TOML string.
std::string toml_string(std::string_view text);

// One message that lists all problems; throws Error (on all ranks alike) unless there are none.
void fail_if_any(const std::vector<Problem>& problems);

}  // namespace xmoe
