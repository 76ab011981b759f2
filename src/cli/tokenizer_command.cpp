#include "cli/tokenizer_command.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/timer.h"
#include "cli/choice_option.h"
#include "cli/document_options.h"
#include "cli/recipe.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/trainer.h"

namespace xmoe {

namespace {

struct TrainArguments {
  DocumentOptions documents;
  TrainerOptions trainer;
  std::filesystem::path output;
};

struct CodeArguments {
  std::filesystem::path tokenizer;
  std::optional<std::filesystem::path> input;  // standard input if not given
  bool added_tokens = false;
};

// Before the work is done rather than after it.
void create_folder_of(const std::filesystem::path& file) {
  std::error_code error;
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path(), error);
  if (error) fail("cannot create the folder of {}: {}", file.string(), error.message());
}

void train(const TrainArguments& arguments) {
  const Timer timer;
  DocumentReader reader(arguments.documents.inputs, arguments.documents.reader);
  create_folder_of(arguments.output);
  const Tokenizer tokenizer(train_vocabulary(reader, arguments.trainer));
  tokenizer.save(arguments.output);
  if (tokenizer.vocab_size() < arguments.trainer.vocab_size)
    log::warning(
        "the text has no more pairs that occur {} times: the vocabulary has {} tokens, {} were asked for",
        arguments.trainer.min_frequency, tokenizer.vocab_size(), arguments.trainer.vocab_size);
  log::info("{}: {} tokens learnt from {:.1f} MB in {:.1f} s", arguments.output.string(),
            tokenizer.vocab_size(), static_cast<double>(reader.total_bytes()) * 1e-6, timer.seconds());
}

std::string read_input(const std::optional<std::filesystem::path>& path) {
  if (path) return read_text_file(*path);
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void encode(const CodeArguments& arguments) {
  const auto tokenizer = Tokenizer::load(arguments.tokenizer);
  const std::string text = read_input(arguments.input);
  const auto ids =
      tokenizer.encode(text, arguments.added_tokens ? AddedTokens::recognised : AddedTokens::as_text);
  std::string line;
  for (const std::int32_t id : ids) line += fmt::format("{}{}", line.empty() ? "" : " ", id);
  fmt::print("{}\n", line);
}

void decode(const CodeArguments& arguments) {
  const auto tokenizer = Tokenizer::load(arguments.tokenizer);
  const std::string text = read_input(arguments.input);
  constexpr const char* kSpace = " \t\r\n,";
  std::string decoded;
  for (std::size_t begin = text.find_first_not_of(kSpace); begin != std::string::npos;) {
    const std::size_t end = std::min(text.find_first_of(kSpace, begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    std::int32_t id = -1;
    if (!CLI::detail::lexical_cast(word, id))
      fail("\"{}\" is not a token id; expected whole numbers between spaces", word);
    decoded += tokenizer.token_bytes(id);
    begin = text.find_first_not_of(kSpace, end);
  }
  std::fwrite(decoded.data(), 1, decoded.size(), stdout);
}

void add_train(CLI::App& tokenizer) {
  auto* command = tokenizer.add_subcommand("train", "Learn a byte-level BPE vocabulary from text");
  const auto arguments = std::make_shared<TrainArguments>();
  arguments->documents.add_to(*command);
  command
      ->add_option("--vocab-size", arguments->trainer.vocab_size,
                   "Tokens to have in the end, bytes and special tokens included")
      ->required()
      ->type_name("N");
  command->add_option("--output", arguments->output, "tokenizer.json to write, in Hugging Face's format")
      ->required()
      ->type_name("FILE");
  add_choice<PreTokenizerKind>(*command, "--pre-tokenizer", arguments->trainer.pre_tokenizer,
                               {{"gpt2", PreTokenizerKind::gpt2},
                                {"qwen", PreTokenizerKind::qwen},
                                {"llama3", PreTokenizerKind::llama3}},
                               "Pattern that cuts text into words: of GPT-2; of Qwen (each digit alone); of "
                               "Llama-3 (up to three digits)");
  command
      ->add_option("--special-tokens", arguments->trainer.special_tokens,
                   "Tokens that text never produces. <|endoftext|> ends documents: keep it among them")
      ->type_name("TOKEN")
      ->capture_default_str();
  command
      ->add_option("--min-frequency", arguments->trainer.min_frequency,
                   "Merge only pairs that occur as often")
      ->type_name("N")
      ->capture_default_str();
  command->footer(
      "The same text gives the same vocabulary, whatever the number of threads (OMP_NUM_THREADS).\n"
      "Example:\n  " +
      std::string(recipe::kTokenizer));
  command->callback([arguments] { train(*arguments); });
}

void add_code_options(CLI::App& command, const std::shared_ptr<CodeArguments>& arguments,
                      const char* input_help) {
  command
      .add_option("--tokenizer", arguments->tokenizer,
                  "tokenizer.json, or GPT-2's vocab.json with merges.txt beside it")
      ->required()
      ->type_name("FILE");
  command.add_option("--input", arguments->input, input_help)->type_name("FILE");
}

void add_encode(CLI::App& tokenizer) {
  auto* command = tokenizer.add_subcommand("encode", "Print the token ids of a text, separated by spaces");
  const auto arguments = std::make_shared<CodeArguments>();
  add_code_options(*command, arguments, "Text; standard input if not given");
  command->add_flag(
      "--added-tokens", arguments->added_tokens,
      "Read the tokenizer's added tokens (<|endoftext|>) in the text as these tokens; else they are text");
  command->footer(
      "Example:\n  echo -n 'In the beginning' | xmoe tokenizer encode --tokenizer tokenizer.json");
  command->callback([arguments] { encode(*arguments); });
}

void add_decode(CLI::App& tokenizer) {
  auto* command = tokenizer.add_subcommand("decode", "Print the text of token ids");
  const auto arguments = std::make_shared<CodeArguments>();
  add_code_options(*command, arguments, "Token ids between spaces or lines; standard input if not given");
  command->footer("Example:\n  echo 40 312 7 | xmoe tokenizer decode --tokenizer tokenizer.json");
  command->callback([arguments] { decode(*arguments); });
}

}  // namespace

void add_tokenizer_command(CLI::App& app, int& /*exit_code*/) {
  auto* tokenizer =
      app.add_subcommand("tokenizer", "Train a byte-level BPE tokenizer, encode and decode text");
  tokenizer->require_subcommand(1);
  add_train(*tokenizer);
  add_encode(*tokenizer);
  add_decode(*tokenizer);
}

}  // namespace xmoe
