#include "data/tokenizer/vocabulary_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "data/tokenizer/byte_level.h"

namespace xmoe {

namespace {

using Json = nlohmann::json;

// Ids beyond this are a damaged file rather than a vocabulary; it bounds what a bad id can make us allocate.
constexpr std::int64_t kLargestId = std::int64_t{1} << 24;

class Reader {
 public:
  explicit Reader(std::filesystem::path path) : path_(std::move(path)) {}

  Vocabulary read_tokenizer_json(const Json& file) {
    read_added_tokens(file);
    read_normalizer(file);
    read_pre_tokenizer(file);
    read_decoder(file);
    const Json& model = file.at("model");
    refuse_unless(model.value("type", std::string("BPE")) == "BPE", "model.type",
                  model.value("type", std::string()), "BPE (byte level)");
    refuse_other_bpe(model);
    vocabulary_.ignore_merges = flag(model, "ignore_merges", "model");
    read_tokens(object(model, "vocab", "model"), "model.vocab");
    read_merges(model);
    if (file.contains("post_processor")) vocabulary_.post_processor = file.at("post_processor").dump();
    return std::move(vocabulary_);
  }

  Vocabulary read_gpt2(const Json& vocab, const std::filesystem::path& merges) {
    if (vocab.contains(kEndOfText))
      vocabulary_.added.push_back(
          {vocab.at(std::string(kEndOfText)).get<std::int32_t>(), std::string(kEndOfText), true});
    read_tokens(vocab, "the vocabulary");
    path_ = merges;
    const std::string text = read_text_file(merges);
    std::int64_t line_number = 0;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      std::string line = text.substr(begin, end - begin);
      begin = end + 1;
      ++line_number;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
      add_merge(line, fmt::format("line {}", line_number));
    }
    return std::move(vocabulary_);
  }

 private:
  template <typename Found>
  [[noreturn]] void refuse(std::string_view field, const Found& found, std::string_view expected) const {
    fail("{}: {} is {}; expected {}", path_.string(), field, found, expected);
  }
  void refuse_unless(bool condition, std::string_view field, std::string_view found,
                     std::string_view expected) const {
    if (!condition) refuse(field, found.empty() ? "missing" : found, expected);
  }

  const Json& object(const Json& parent, const char* key, std::string_view parent_name) const {
    const auto found = parent.find(key);
    if (found == parent.end()) refuse(fmt::format("{}.{}", parent_name, key), "missing", "an object");
    if (!found->is_object()) refuse(fmt::format("{}.{}", parent_name, key), found->type_name(), "an object");
    return *found;
  }

  bool flag(const Json& parent, const char* key, std::string_view parent_name, bool missing = false) const {
    const auto found = parent.find(key);
    if (found == parent.end() || found->is_null()) return missing;
    if (!found->is_boolean()) refuse(fmt::format("{}.{}", parent_name, key), found->dump(), "true or false");
    return found->get<bool>();
  }

  std::int32_t id_of(const Json& value, const std::string& field) const {
    if (!value.is_number_integer()) refuse(field, value.dump(), "a whole number");
    const auto id = value.get<std::int64_t>();
    if (id < 0 || id > kLargestId) refuse(field, id, fmt::format("an id from 0 to {}", kLargestId));
    return static_cast<std::int32_t>(id);
  }

  void read_added_tokens(const Json& file) {
    const auto list = file.find("added_tokens");
    if (list == file.end() || list->is_null()) return;
    if (!list->is_array()) refuse("added_tokens", list->type_name(), "an array");
    for (std::size_t i = 0; i < list->size(); ++i) {
      const std::string name = fmt::format("added_tokens[{}]", i);
      const Json& token = (*list)[i];
      if (!token.is_object() || !token.contains("content") || !token.at("content").is_string() ||
          !token.contains("id"))
        refuse(name, token.dump(), "an object with id and content");
      const auto content = token.at("content").get<std::string>();
      if (content.empty()) refuse(name + ".content", "empty", "text");
      // They would take white space around the token with it, or need word boundaries.
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        if (flag(token, key, name))
          refuse(fmt::format("{}.{}", name, key), "true", "false: this option is not supported");
      vocabulary_.added.push_back(
          {id_of(token.at("id"), name + ".id"), content, flag(token, "special", name)});
    }
  }

  void read_normalizer(const Json& file) const {
    const auto normalizer = file.find("normalizer");
    if (normalizer == file.end() || normalizer->is_null()) return;
    const std::string type = normalizer->value("type", normalizer->dump());
    if (type == "Sequence" && normalizer->value("normalizers", Json::array()).empty()) return;
    refuse("normalizer", type,
           "null: text is not normalised here; for text that is already in that form (NFC, say), set it to "
           "null");
  }

  // One entry of pre_tokenizer: sets the pattern it stands for, if any.
  void read_pre_tokenizer_entry(const Json& entry, const std::string& name,
                                std::optional<PreTokenizerKind>& kind, bool& byte_level) const {
    const std::string type = entry.is_object() ? entry.value("type", std::string()) : std::string();
    if (type == "ByteLevel") {
      byte_level = true;
      // Absent means true in these two fields.
      if (flag(entry, "add_prefix_space", name, true))
        refuse(name + ".add_prefix_space", "true", "false: text is encoded as it is");
      if (flag(entry, "use_regex", name, true)) {
        if (kind) refuse(name + ".use_regex", "true behind another pattern", "false");
        kind = PreTokenizerKind::gpt2;
      }
      return;
    }
    refuse_unless(type == "Split", name + ".type", type, "ByteLevel, or a Sequence of Split and ByteLevel");
    if (kind || byte_level) refuse(name, "a second split", "one Split before ByteLevel");
    const Json pattern = entry.value("pattern", Json());
    if (!pattern.is_object() || !pattern.contains("Regex") || !pattern.at("Regex").is_string())
      refuse(name + ".pattern", pattern.dump(), R"({"Regex": "..."})");
    const auto regex = pattern.at("Regex").get<std::string>();
    kind = pre_tokenizer_with_pattern(regex);
    if (!kind)
      refuse(name + ".pattern.Regex", regex, "the pattern of GPT-2, Qwen or Llama-3, letter by letter");
    const std::string behavior = entry.value("behavior", std::string());
    const bool invert = flag(entry, "invert", name);
    // The patterns cover any text, so that keeping the matches alone is the same.
    if (!(behavior == "Isolated" && !invert) && !(behavior == "Removed" && invert))
      refuse(name + ".behavior", fmt::format("{} with invert {}", behavior, invert),
             "Isolated with invert false");
  }

  void read_pre_tokenizer(const Json& file) {
    const auto found = file.find("pre_tokenizer");
    if (found == file.end() || found->is_null())
      refuse("pre_tokenizer", "missing", "ByteLevel, or Split and ByteLevel");
    std::optional<PreTokenizerKind> kind;
    bool byte_level = false;
    if (found->is_object() && found->value("type", std::string()) == "Sequence") {
      const Json entries = found->value("pretokenizers", Json::array());
      for (std::size_t i = 0; i < entries.size(); ++i)
        read_pre_tokenizer_entry(entries[i], fmt::format("pre_tokenizer.pretokenizers[{}]", i), kind,
                                 byte_level);
    } else {
      read_pre_tokenizer_entry(*found, "pre_tokenizer", kind, byte_level);
    }
    if (!byte_level) refuse("pre_tokenizer", "without ByteLevel", "a byte-level tokenizer");
    if (!kind) refuse("pre_tokenizer", "without a pattern", "ByteLevel with use_regex, or a Split before it");
    vocabulary_.pre_tokenizer = *kind;
  }

  void read_decoder(const Json& file) const {
    const auto decoder = file.find("decoder");
    if (decoder == file.end() || decoder->is_null()) return;
    const std::string type = decoder->is_object() ? decoder->value("type", std::string()) : decoder->dump();
    refuse_unless(type == "ByteLevel", "decoder.type", type, "ByteLevel");
  }

  // Variants of BPE that would give other ids.
  void refuse_other_bpe(const Json& model) const {
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto value = model.find(key);
      if (value != model.end() && !value->is_null() && *value != "")
        refuse(fmt::format("model.{}", key), value->dump(), "null: words are not marked in byte-level BPE");
    }
    if (flag(model, "byte_fallback", "model"))
      refuse("model.byte_fallback", "true", "false: a byte-level vocabulary");
    const auto dropout = model.find("dropout");
    if (dropout != model.end() && !dropout->is_null() && *dropout != 0.0)
      refuse("model.dropout", dropout->dump(), "null: encoding is deterministic here");
  }

  void set_token(std::int32_t id, std::string bytes, const std::string& printed) {
    const auto i = static_cast<std::size_t>(id);
    if (vocabulary_.tokens.size() <= i) vocabulary_.tokens.resize(i + 1);
    std::string& slot = vocabulary_.tokens[i];
    if (!slot.empty() && slot != bytes)
      refuse(fmt::format("id {}", id), "given twice", fmt::format("one token ({})", printed));
    slot = std::move(bytes);
  }

  void read_tokens(const Json& vocab, const std::string& field) {
    std::unordered_map<std::string_view, std::int32_t> added;
    for (const auto& token : vocabulary_.added) added.emplace(token.content, token.id);
    for (const auto& [printed, value] : vocab.items()) {
      const std::int32_t id = id_of(value, fmt::format("{}[\"{}\"]", field, printed));
      if (const auto special = added.find(printed); special != added.end()) {
        if (special->second != id)
          refuse("added token " + printed, special->second, fmt::format("{} as in {}", id, field));
        set_token(id, printed, printed);
      } else {
        auto bytes = from_byte_level(printed);
        if (!bytes || bytes->empty())
          refuse(fmt::format("{}[\"{}\"]", field, printed), "no string of byte-level characters",
                 "a byte-level vocabulary");
        set_token(id, std::move(*bytes), printed);
      }
      ids_.emplace(printed, id);
    }
    for (const auto& token : vocabulary_.added) set_token(token.id, token.content, token.content);
  }

  void read_merges(const Json& model) {
    const auto merges = model.find("merges");
    if (merges == model.end() || !merges->is_array()) refuse("model.merges", "missing", "an array");
    for (std::size_t i = 0; i < merges->size(); ++i) {
      const Json& merge = (*merges)[i];
      const std::string name = fmt::format("model.merges[{}]", i);
      if (merge.is_string()) {
        add_merge(merge.get_ref<const std::string&>(), name);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), name);
      } else {
        refuse(name, merge.dump(), "\"a b\" or [\"a\", \"b\"]");
      }
    }
  }

  // "a b"; a space is not a byte-level character, so that it can only separate.
  void add_merge(const std::string& line, const std::string& name) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos)
      refuse(name, '"' + line + '"', "two tokens with a space between");
    add_merge(line.substr(0, space), line.substr(space + 1), name);
  }
  void add_merge(const std::string& left, const std::string& right, const std::string& name) {
    vocabulary_.merges.push_back({merge_id(left, name), merge_id(right, name), merge_id(left + right, name)});
  }
  std::int32_t merge_id(const std::string& printed, const std::string& name) const {
    const auto found = ids_.find(printed);
    if (found == ids_.end())
      refuse(name, fmt::format("a merge with \"{}\"", printed), "tokens of the vocabulary only");
    return found->second;
  }

  std::filesystem::path path_;
  Vocabulary vocabulary_;
  std::unordered_map<std::string, std::int32_t> ids_;  // by the printed token
};

Json parse(const std::filesystem::path& path) {
  const MappedFile file(path);
  try {
    return Json::parse(file.text());
  } catch (const Json::exception& error) {
    fail("{}: not a JSON file: {}", path.string(), error.what());
  }
}

std::string quoted(const std::string& text) { return Json(text).dump(); }

std::string pre_tokenizer_json(PreTokenizerKind kind) {
  if (kind == PreTokenizerKind::gpt2)
    return R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  return fmt::format(
      R"({{"type": "Sequence", "pretokenizers": [{{"type": "Split", "pattern": {{"Regex": {}}}, "behavior": "Isolated", "invert": false}}, )"
      R"({{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}}]}})",
      quoted(std::string(pattern_of(kind))));
}

}  // namespace

Vocabulary load_vocabulary(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    for (const char* name : {"tokenizer.json", "vocab.json"})
      if (std::filesystem::exists(path / name)) return load_vocabulary(path / name);
    fail("{}: holds neither tokenizer.json nor vocab.json with merges.txt", path.string());
  }
  const Json file = parse(path);
  if (!file.is_object())
    fail("{}: holds {}; expected a tokenizer.json or a vocab.json", path.string(), file.type_name());
  try {
    if (file.contains("model") && file.at("model").is_object()) return Reader(path).read_tokenizer_json(file);
    const auto merges = path.parent_path() / "merges.txt";
    if (file.empty() ||
        !std::all_of(file.begin(), file.end(), [](const Json& id) { return id.is_number_integer(); }))
      fail(
          "{}: model is missing; expected a Hugging Face tokenizer.json, or a GPT-2 vocab.json (token to id)",
          path.string());
    if (!std::filesystem::exists(merges))
      fail("{}: a GPT-2 vocabulary needs its merges; {} is missing", path.string(), merges.string());
    return Reader(path).read_gpt2(file, merges);
  } catch (const Json::exception& error) {
    fail("{}: a field has an unexpected type: {}", path.string(), error.what());
  }
}

std::string to_tokenizer_json(const Vocabulary& vocabulary) {
  std::string added;
  std::unordered_set<std::int32_t> added_ids;
  for (const auto& token : vocabulary.added) {
    added_ids.insert(token.id);
    added += fmt::format(
        R"({}{{"id": {}, "content": {}, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": {}}})",
        added.empty() ? "\n    " : ",\n    ", token.id, quoted(token.content), token.special);
  }
  std::string tokens;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& bytes = vocabulary.tokens[id];
    if (bytes.empty()) continue;
    const bool is_added = added_ids.contains(static_cast<std::int32_t>(id));
    tokens += fmt::format("{}{}: {}", tokens.empty() ? "\n      " : ",\n      ",
                          quoted(is_added ? bytes : to_byte_level(bytes)), id);
  }
  std::string merges;
  const auto printed = [&](std::int32_t id) {
    return to_byte_level(vocabulary.tokens[static_cast<std::size_t>(id)]);
  };
  for (const Merge& merge : vocabulary.merges)
    merges += fmt::format("{}{}", merges.empty() ? "\n      " : ",\n      ",
                          quoted(printed(merge.left) + " " + printed(merge.right)));
  return fmt::format(R"({{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [{}
  ],
  "normalizer": null,
  "pre_tokenizer": {},
  "post_processor": {},
  "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
  "model": {{
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": {},
    "vocab": {{{}
    }},
    "merges": [{}
    ]
  }}
}}
)",
                     added, pre_tokenizer_json(vocabulary.pre_tokenizer), vocabulary.post_processor,
                     vocabulary.ignore_merges, tokens, merges);
}

}  // namespace xmoe
