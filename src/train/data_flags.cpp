#include <charconv>

#include "base/error.h"
#include "train/flags.h"

namespace xmoe {

namespace {

bool parse_weight(const std::string& text, double& weight) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, weight);
  return error == std::errc() && stop == end;
}

std::string read_sources(const std::vector<std::string>& given, std::vector<DataSource>& sources) {
  sources.clear();
  if (given.size() == 1) {
    sources.push_back({1.0, given.front()});
    return {};
  }
  if (given.size() % 2 != 0)
    return fmt::format("has {} values: expected one prefix, or pairs WEIGHT PREFIX", given.size());
  for (std::size_t i = 0; i < given.size(); i += 2) {
    DataSource source{0.0, given[i + 1]};
    if (!parse_weight(given[i], source.weight) || !(source.weight > 0.0))
      return fmt::format("'{}' is not a weight above 0: expected pairs WEIGHT PREFIX", given[i]);
    sources.push_back(std::move(source));
  }
  return {};
}

std::string show_sources(const std::vector<DataSource>& sources) {
  if (sources.empty()) return {};
  if (sources.size() == 1) return toml_string(sources.front().prefix);
  std::string text;
  for (const DataSource& source : sources)
    text += fmt::format("{}{}, {}", text.empty() ? "" : ", ", source.weight, toml_string(source.prefix));
  return "[" + text + "]";
}

// "98,2,0" or three elements of an array; missing shares are 0.
std::string read_split(const std::vector<std::string>& given, std::array<double, 3>& split) {
  std::string text;
  for (const std::string& value : given) text += (text.empty() ? "" : ",") + value;
  std::array<double, 3> shares{};
  std::size_t count = 0;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    std::string share = text.substr(begin, end - begin);
    share.erase(0, share.find_first_not_of(' '));
    if (count == shares.size() || !parse_weight(share, shares[count]) || !(shares[count] >= 0.0))
      return fmt::format(
          "'{}' is not a split: expected up to three shares of at least 0, for instance 98,2,0", text);
    ++count;
    begin = end + 1;
  }
  if (!(shares[0] + shares[1] + shares[2] > 0.0)) return "has shares of 0 only: expected for instance 98,2,0";
  split = shares;
  return {};
}

std::string show_split(const std::array<double, 3>& split) {
  return toml_string(fmt::format("{},{},{}", split[0], split[1], split[2]));
}

Flag split_flag() {
  Flag flag;
  flag.value_name = "A,B,C";
  flag.help = "Shares of training, validation and test in the documents of the data set";
  return flag;
}

}  // namespace

void add_data_path_flag(FlagTable& table, std::vector<DataSource>& sources) {
  Flag flag;
  flag.arity = Arity::many;
  flag.value_name = "[WEIGHT] PREFIX ...";
  flag.help = "Indexed data set (PREFIX.bin and PREFIX.idx), or a blend: 0.3 a 0.7 b";
  flag.read = [&sources](const std::vector<std::string>& given) { return read_sources(given, sources); };
  flag.show = [&sources] { return show_sources(sources); };
  table.add("data-path", std::move(flag));
}

void add_split_flag(FlagTable& table, std::optional<std::array<double, 3>>& split) {
  Flag flag = split_flag();
  flag.read = [&split](const std::vector<std::string>& given) {
    std::array<double, 3> shares{};
    std::string problem = read_split(given, shares);
    if (problem.empty()) split = shares;
    return problem;
  };
  flag.show = [&split] { return split ? show_split(*split) : std::string(); };
  table.add("split", std::move(flag));
}

void add_data_flags(FlagTable& table, DataConfig& data) {
  table.group("Data");
  add_data_path_flag(table, data.sources);
  Flag flag = split_flag();
  flag.read = [&data](const std::vector<std::string>& given) { return read_split(given, data.split); };
  flag.show = [&data] { return show_split(data.split); };
  table.add("split", std::move(flag));
  table.path("tokenizer|tokenizer-model", data.tokenizer, "FILE",
             "tokenizer.json that the data was prepared with");
  table.integer("vocab-size", data.vocab_size, "Tokens of the vocabulary; 0: as many as the tokenizer has",
                at_least(0));
  table.integer("make-vocab-size-divisible-by", data.vocab_multiple,
                "The embedding is padded to a multiple of this", at_least(1));
}

}  // namespace xmoe
