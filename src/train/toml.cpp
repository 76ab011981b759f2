#include "train/toml.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace xmoe {

namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  std::vector<TomlSetting> parse() {
    for (skip_blank_lines(); !at_end(); skip_blank_lines()) {
      if (peek() == '[') {
        read_table();
      } else {
        read_setting();
      }
      end_of_line();
    }
    return std::move(settings_);
  }

 private:
  bool at_end() const { return position_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[position_]; }
  char next() {
    const char c = peek();
    if (c == '\n') ++line_;
    ++position_;
    return c;
  }

  [[noreturn]] void wrong(const std::string& what) const { fail("{}: line {}: {}", name_, line_, what); }

  void skip_spaces() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\r') next();
  }
  void skip_comment() {
    if (peek() != '#') return;
    while (!at_end() && peek() != '\n') next();
  }
  void skip_blank_lines() {
    for (skip_spaces(), skip_comment(); peek() == '\n'; skip_spaces(), skip_comment()) next();
  }
  void end_of_line() {
    skip_spaces();
    skip_comment();
    if (!at_end() && peek() != '\n')
      wrong(fmt::format("unexpected '{}' behind the value: expected the end of the line", peek()));
  }

  static bool is_bare(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  }

  std::string read_key() {
    if (peek() == '"' || peek() == '\'') return read_string();
    std::string key;
    while (is_bare(peek())) key += next();
    if (key.empty()) wrong("expected a name: settings are lines of the form `name = value`");
    return key;
  }

  void read_table() {
    next();
    if (peek() == '[') wrong("arrays of tables are not used here: write [table]");
    skip_spaces();
    table_ = read_key();
    for (skip_spaces(); peek() == '.'; skip_spaces()) {
      next();
      skip_spaces();
      table_ += '.';
      table_ += read_key();
    }
    if (next() != ']') wrong("expected ']' behind the name of the table");
  }

  void read_setting() {
    TomlSetting setting;
    setting.table = table_;
    setting.line = line_;
    setting.key = read_key();
    skip_spaces();
    if (peek() != '=') wrong(fmt::format("expected '=' behind '{}'", setting.key));
    next();
    skip_spaces();
    if (peek() == '[') {
      read_array(setting.values);
    } else {
      setting.values.push_back(read_value());
    }
    settings_.push_back(std::move(setting));
  }

  void read_array(std::vector<std::string>& values) {
    next();
    for (;;) {
      skip_blank_lines();
      if (peek() == ']') break;
      if (at_end()) wrong("the array has no ']'");
      values.push_back(read_value());
      skip_blank_lines();
      if (peek() == ',') {
        next();
      } else if (!at_end() && peek() != ']') {
        wrong("expected ',' or ']' in the array");
      }
    }
    next();
  }

  std::string read_value() {
    if (peek() == '"' || peek() == '\'') return read_string();
    std::string word;
    while (is_bare(peek()) || peek() == '+' || peek() == '.') word += next();
    if (word == "true" || word == "false") return word;
    if (word.empty() && (at_end() || peek() == '\n' || peek() == '#')) wrong("the value is missing");
    // The reader of the flag decides what number it is; here it only has to look like one.
    const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
    const bool number =
        std::any_of(word.begin(), word.end(), digit) &&
        (digit(word.front()) || word.front() == '-' || word.front() == '+' || word.front() == '.');
    if (!number)
      wrong(fmt::format("'{}' is not a value: texts are written in quotes",
                        word.empty() ? std::string(1, peek()) : word));
    word.erase(std::remove(word.begin(), word.end(), '_'), word.end());
    if (word.front() == '+') word.erase(0, 1);
    return word;
  }

  std::string read_string() {
    const char quote = next();
    if (text_.substr(position_, 2) == std::string(2, quote))
      wrong("texts over several lines are not used here");
    std::string value;
    while (peek() != quote) {
      if (at_end() || peek() == '\n') wrong("the text has no closing quote");
      const char c = next();
      value += c == '\\' && quote == '"' ? read_escape() : c;
    }
    next();
    return value;
  }

  char read_escape() {
    const char c = next();
    switch (c) {
      case 'n':
        return '\n';
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case '"':
      case '\\':
        return c;
      default:
        wrong(fmt::format("'\\{}' is not known: use '...' for a text with backslashes", c));
    }
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t position_ = 0;
  int line_ = 1;
  std::string table_;
  std::vector<TomlSetting> settings_;
};

}  // namespace

std::vector<TomlSetting> parse_toml(std::string_view text, const std::string& name) {
  return Parser(text, name).parse();
}

}  // namespace xmoe
