#include "cli/document_options.h"

#include <map>
#include <string>

namespace xmoe {

void DocumentOptions::add_to(CLI::App& command) {
  command.add_option("--input", inputs, "Text files, or JSONL files with an object on each line")
      ->required()
      ->type_name("FILE ...");
  static const std::map<std::string, DocumentFormat> kFormats{{"auto", DocumentFormat::by_extension},
                                                              {"text", DocumentFormat::text},
                                                              {"jsonl", DocumentFormat::jsonl}};
  command
      .add_option("--input-format", reader.format,
                  "What the files hold: text, jsonl, or auto (JSONL if the name ends in .jsonl or .json)")
      ->transform(CLI::CheckedTransformer(kFormats).description(""))
      ->type_name("auto|text|jsonl")
      ->default_str("auto");
  command.add_option("--json-key", reader.json_key, "Key of the document's text in a JSONL object")
      ->type_name("KEY")
      ->capture_default_str();
}

}  // namespace xmoe
