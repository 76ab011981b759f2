#include "cli/data_command.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/timer.h"
#include "cli/choice_option.h"
#include "cli/document_options.h"
#include "cli/recipe.h"
#include "data/indexed_dataset/indexed_dataset.h"
#include "data/prepare/inspect.h"
#include "data/prepare/prepare.h"
#include "data/tokenizer/tokenizer.h"

namespace xmoe {

namespace {

struct PrepareArguments {
  DocumentOptions documents;
  std::filesystem::path tokenizer;
  std::filesystem::path output_prefix;
  int workers = 0;  // 0: all threads
};

struct InspectArguments {
  std::vector<std::filesystem::path> prefixes;
  std::optional<std::filesystem::path> tokenizer;
  InspectOptions options;
};

void prepare(const PrepareArguments& arguments) {
  const Timer timer;
  const auto tokenizer = Tokenizer::load(arguments.tokenizer);
  DocumentReader reader(arguments.documents.inputs, arguments.documents.reader);
  IndexedDatasetWriter writer(arguments.output_prefix, tokenizer.vocab_size());
  const int workers = arguments.workers > 0 ? arguments.workers : thread_count();
  const PrepareResult result = prepare_dataset(reader, tokenizer, workers, writer);
  if (result.documents == 0)
    fail("the input holds no documents: {} files of {} bytes", arguments.documents.inputs.size(),
         reader.total_bytes());
  writer.finish();
  log::info(
      "{}.bin, .idx: {} documents, {} tokens from {:.1f} MB of text ({:.2f} bytes per token) in {:.1f} s{}",
      arguments.output_prefix.string(), result.documents, result.tokens,
      static_cast<double>(result.text_bytes) * 1e-6,
      static_cast<double>(result.text_bytes) / static_cast<double>(result.tokens), timer.seconds(),
      result.empty_documents > 0 ? fmt::format("; {} empty documents left out", result.empty_documents) : "");
}

void inspect(const InspectArguments& arguments) {
  std::optional<Tokenizer> tokenizer;
  InspectOptions options = arguments.options;
  if (arguments.tokenizer) options.tokenizer = &tokenizer.emplace(Tokenizer::load(*arguments.tokenizer));
  for (const auto& given : arguments.prefixes) {
    // A shell completes file names: P.bin and P.idx mean P.
    const bool named_file = given.extension() == ".bin" || given.extension() == ".idx";
    const IndexedDataset dataset(named_file ? std::filesystem::path(given).replace_extension() : given);
    fmt::print("{}", inspect_dataset(dataset, options));
  }
}

void add_prepare(CLI::App& data) {
  auto* command =
      data.add_subcommand("prepare", "Tokenize documents into PREFIX.bin and PREFIX.idx (Megatron's format)");
  const auto arguments = std::make_shared<PrepareArguments>();
  arguments->documents.add_to(*command);
  add_choice<TextDocuments>(
      *command, "--split-documents", arguments->documents.reader.text_documents,
      {{"file", TextDocuments::file}, {"blank-line", TextDocuments::blank_line}},
      "What one document of a text file is: the file, or each block between blank lines. "
      "Training, validation and test are split by documents");
  command
      ->add_option("--tokenizer", arguments->tokenizer,
                   "tokenizer.json, or GPT-2's vocab.json with merges.txt beside it")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--output-prefix", arguments->output_prefix, "Where to write: PREFIX.bin and PREFIX.idx")
      ->required()
      ->type_name("PREFIX");
  command
      ->add_option("--workers", arguments->workers,
                   "Threads; 0: as many as there are processors (or OMP_NUM_THREADS)")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  command->footer(
      "Documents keep their order; the tokenizer's end-of-document token is put behind each. Empty documents "
      "are left out.\n"
      "The files appear when they are complete: an interrupted run leaves those of an earlier one alone.\n"
      "Examples:\n  " +
      std::string(recipe::kData) +
      "\n"
      "  xmoe data prepare --input crawl-*.jsonl --json-key text --tokenizer tokenizer.json --output-prefix "
      "data/crawl");
  command->callback([arguments] { prepare(*arguments); });
}

void add_inspect(CLI::App& data) {
  auto* command =
      data.add_subcommand("inspect", "Print what is in PREFIX.bin and PREFIX.idx, and verify them");
  const auto arguments = std::make_shared<InspectArguments>();
  command->add_option("prefix", arguments->prefixes, "Indexed datasets")->required()->type_name("PREFIX");
  command
      ->add_option("--tokenizer", arguments->tokenizer,
                   "Check token ids against its vocabulary, and show text")
      ->type_name("FILE");
  command->add_option("--documents", arguments->options.shown_documents, "How many documents to show")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--tokens", arguments->options.shown_tokens, "How many tokens of each document to show")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  command->footer(
      "Checks the header, the sizes of both files and every entry of the index; exits with an error at the "
      "first that is wrong.\n"
      "Example:\n  xmoe data inspect data/book --tokenizer tokenizer.json");
  command->callback([arguments] { inspect(*arguments); });
}

}  // namespace

void add_data_command(CLI::App& app, int& /*exit_code*/) {
  auto* data = app.add_subcommand("data", "Prepare training data and inspect it");
  data->require_subcommand(1);
  add_prepare(*data);
  add_inspect(*data);
}

}  // namespace xmoe
