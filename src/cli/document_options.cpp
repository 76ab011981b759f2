#include "cli/document_options.h"

#include "cli/choice_option.h"

namespace xmoe {

void DocumentOptions::add_to(CLI::App& command) {
  command.add_option("--input", inputs, "Text files, or JSONL files with an object on each line")
      ->required()
      ->type_name("FILE");
  add_choice<DocumentFormat>(
      command, "--input-format", reader.format,
      {{"auto", DocumentFormat::by_extension},
       {"text", DocumentFormat::text},
       {"jsonl", DocumentFormat::jsonl}},
      "What the files hold: text, jsonl, or auto (JSONL if the name ends in .jsonl or .json)");
  command.add_option("--json-key", reader.json_key, "Key of the document's text in a JSONL object")
      ->type_name("KEY")
      ->capture_default_str();
}

}  // namespace xmoe
