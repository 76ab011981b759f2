#include "data/tokenizer/vocabulary_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/support/temporary_folder.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/tokenizer.h"

namespace xmoe {
namespace {

using nlohmann::json;

// 256 bytes, three merges and the end of documents, as Hugging Face's library writes them.
json small_file() {
  json vocab;
  int id = 0;
  for (int byte = 0; byte < 256; ++byte) vocab[to_byte_level(std::string(1, static_cast<char>(byte)))] = id++;
  for (const char* token : {"he", "\u0120t", "\u0120the"}) vocab[token] = id++;
  return {{"version", "1.0"},
          {"added_tokens",
           {{{"id", 259}, {"content", "<|endoftext|>"}, {"single_word", false}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", {{"type", "ByteLevel"}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"h e", "\u0120 t", "\u0120t he"}}}}};
}

Tokenizer load(const json& file) {
  const TemporaryFolder folder;
  return Tokenizer::load(folder.write("tokenizer.json", file.dump()));
}

std::string refusal(const json& file) {
  return error_of([&] { load(file); });
}

void expect_refused(const json& file, const std::string& field) {
  const std::string message = refusal(file);
  EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
  EXPECT_NE(message.find(field), std::string::npos) << message;
}

const std::vector<std::int32_t> kTheHe{258, ' ', 256};  // " the he": the bytes' ids are their values

TEST(VocabularyFile, ReadsTokenizerJson) {
  const Tokenizer tokenizer = load(small_file());
  EXPECT_EQ(tokenizer.vocab_size(), 260);
  EXPECT_EQ(tokenizer.end_of_document(), 259);
  EXPECT_EQ(tokenizer.encode(" the he"), kTheHe);
  EXPECT_EQ(tokenizer.token_bytes(258), " the");
}

TEST(VocabularyFile, ReadsMergesAsPairs) {
  json file = small_file();
  file["model"]["merges"] =
      json::array({json::array({"h", "e"}), json::array({"\u0120", "t"}), json::array({"\u0120t", "he"})});
  EXPECT_EQ(load(file).encode(" the he"), kTheHe);
}

TEST(VocabularyFile, ReadsSplitBeforeByteLevel) {
  for (const auto kind : {PreTokenizerKind::gpt2, PreTokenizerKind::qwen, PreTokenizerKind::llama3}) {
    json file = small_file();
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers",
                              {{{"type", "Split"},
                                {"pattern", {{"Regex", pattern_of(kind)}}},
                                {"behavior", "Isolated"},
                                {"invert", false}},
                               {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    EXPECT_EQ(load(file).vocabulary().pre_tokenizer, kind);
  }
}

TEST(VocabularyFile, WhatIsWrittenReadsTheSame) {
  for (const auto kind : {PreTokenizerKind::gpt2, PreTokenizerKind::qwen, PreTokenizerKind::llama3}) {
    Vocabulary vocabulary = load(small_file()).vocabulary();
    vocabulary.pre_tokenizer = kind;
    vocabulary.ignore_merges = kind == PreTokenizerKind::llama3;
    const TemporaryFolder folder;
    Tokenizer(vocabulary).save(folder / "tokenizer.json");
    const Vocabulary read = load_vocabulary(folder / "tokenizer.json");
    EXPECT_EQ(read.tokens, vocabulary.tokens);
    EXPECT_EQ(read.pre_tokenizer, kind);
    EXPECT_EQ(read.ignore_merges, vocabulary.ignore_merges);
    EXPECT_EQ(read.merges.size(), vocabulary.merges.size());
    EXPECT_EQ(read.post_processor, vocabulary.post_processor);
    ASSERT_EQ(read.added.size(), 1U);
    EXPECT_EQ(read.added[0].id, 259);
    EXPECT_EQ(to_tokenizer_json(read), to_tokenizer_json(vocabulary));
  }
}

TEST(VocabularyFile, ReadsGpt2Files) {
  json vocab = small_file()["model"]["vocab"];
  vocab["<|endoftext|>"] = 259;
  const TemporaryFolder folder;
  const auto path = folder.write("vocab.json", vocab.dump());
  EXPECT_NE(error_of([&] { Tokenizer::load(path); }).find("merges.txt"), std::string::npos);
  folder.write("merges.txt", "#version: 0.2\nh e\n\u0120 t\n\u0120t he\n");
  for (const auto& given : {path, folder / ""}) {
    const Tokenizer tokenizer = Tokenizer::load(given);
    EXPECT_EQ(tokenizer.encode(" the he"), kTheHe);
    EXPECT_EQ(tokenizer.end_of_document(), 259);
  }
  folder.write("merges.txt", "#version: 0.2\nh e\nno-space\n");
  EXPECT_NE(error_of([&] { Tokenizer::load(path); }).find("merges.txt: line 3"), std::string::npos);
}

TEST(VocabularyFile, KnowsOtherNamesOfTheEndOfADocument) {
  json file = small_file();
  file["added_tokens"][0]["content"] = "<|end_of_text|>";
  EXPECT_EQ(load(file).end_of_document(), 259);
  file["added_tokens"] = json::array();
  const Tokenizer without = load(file);
  EXPECT_FALSE(without.has_end_of_document());
  EXPECT_NE(error_of([&] { static_cast<void>(without.end_of_document()); }).find("<|endoftext|>"),
            std::string::npos);
}

TEST(VocabularyFile, NamesTheFieldThatIsNotSupported) {
  const json good = small_file();
  const auto with = [&](const char* pointer, const json& value) {
    json file = good;
    file[json::json_pointer(pointer)] = value;
    return file;
  };
  expect_refused(with("/model/type", "WordPiece"), "model.type is WordPiece");
  expect_refused(with("/model/type", "Unigram"), "model.type is Unigram");
  expect_refused(with("/normalizer", {{"type", "NFC"}}), "normalizer is NFC");
  expect_refused(with("/model/byte_fallback", true), "model.byte_fallback");
  expect_refused(with("/model/dropout", 0.1), "model.dropout");
  expect_refused(with("/model/continuing_subword_prefix", "##"), "model.continuing_subword_prefix");
  expect_refused(with("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix");
  expect_refused(with("/pre_tokenizer", nullptr), "pre_tokenizer");
  expect_refused(with("/pre_tokenizer/type", "Metaspace"), "pre_tokenizer.type is Metaspace");
  expect_refused(with("/pre_tokenizer/add_prefix_space", true), "pre_tokenizer.add_prefix_space");
  expect_refused(with("/pre_tokenizer/use_regex", false), "without a pattern");
  expect_refused(with("/decoder/type", "WordPiece"), "decoder.type");
  expect_refused(with("/added_tokens/0/lstrip", true), "added_tokens[0].lstrip");
  expect_refused(with("/added_tokens/0/id", -1), "added_tokens[0].id");
  expect_refused(with("/added_tokens/0/id", std::int64_t{1} << 40), "added_tokens[0].id");
  expect_refused(with("/added_tokens/0/id", 5), "id 5 is given twice");
  expect_refused(with("/model/vocab/he", 3), "id 3 is given twice");
  expect_refused(with("/model/vocab/he", "x"), "model.vocab[\"he\"]");
  expect_refused(with("/model/vocab/\u4e2d", 300), "byte-level");
  expect_refused(with("/model/merges/1", "a b c"), "model.merges[1]");
  expect_refused(with("/model/merges/2", {"x"}), "model.merges[2]");
  expect_refused(with("/model/merges/0", "x y"), "model.merges[0] is a merge with \"xy\"");
  json split = good;
  split["pre_tokenizer"] = {{"type", "Sequence"},
                            {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", "\\s+"}}}}}}};
  expect_refused(split, "pre_tokenizer.pretokenizers[0].pattern.Regex is \\s+");
  json no_vocab = good;
  no_vocab["model"].erase("vocab");
  expect_refused(no_vocab, "model.vocab is missing");
  json no_byte = good;
  no_byte["model"]["vocab"].erase("q");
  expect_refused(no_byte, "0x71");
}

TEST(VocabularyFile, NamesFilesThatCannotBeRead) {
  const TemporaryFolder folder;
  EXPECT_NE(error_of([&] { load_vocabulary(folder / "missing.json"); }).find("missing.json"),
            std::string::npos);
  EXPECT_NE(error_of([&] { load_vocabulary(folder / ""); }).find("neither tokenizer.json nor vocab.json"),
            std::string::npos);
  for (const char* content : {"", "{\"model\": ", "[1, 2]", "{}", "\"text\"", "{\"a\": \"b\"}", "\xff"}) {
    const auto path = folder.write("broken.json", content);
    EXPECT_NE(error_of([&] { load_vocabulary(path); }).find("broken.json"), std::string::npos) << content;
  }
}

}  // namespace
}  // namespace xmoe
