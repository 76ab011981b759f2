#include "cli/program.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/data_command.h"
#include "cli/recipe.h"
#include "cli/same_command.h"
#include "cli/tokenizer_command.h"
#include "comm/communicator.h"
#include "comm/same_program.h"
#include "train/flag_table.h"
#include "train/together.h"

namespace xmoe {

namespace {

constexpr const char* kDescription =
    "xmoe trains Mixture-of-Experts language models (many small experts, large top-k) without padding, on "
    "one process or many.";

std::string examples() {
  std::string text = "A model from a text file, step by step:\n";
  for (const char* step :
       {recipe::kTokenizer, recipe::kData, recipe::kTrain, recipe::kEval, recipe::kGenerate})
    text += fmt::format("  {}\n", step);
  return text + "\n`xmoe COMMAND --help` lists the flags of a command.";
}

// The first argument that is no flag, or empty.
std::string_view command_of(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.empty() && argument.front() != '-') return argument;
  }
  return {};
}

// Whether the command is one that runs on many ranks. Decided before parsing, so that a mistake in the flags
// is reported once and not by every rank.
bool runs_on_ranks(std::string_view command) {
  return command == "train" || command == "eval" || command == "generate";
}

void check_command(const CLI::App& app, std::string_view command) {
  std::vector<std::string> names;
  for (const CLI::App* known : app.get_subcommands({})) names.push_back(known->get_name());
  if (command.empty() || std::find(names.begin(), names.end(), command) != names.end()) return;
  const std::string near = nearest_name(command, names);
  fail_everywhere("'{}' is not a command{}; see `xmoe --help`", command,
                  near.empty() ? "" : fmt::format(", did you mean '{}'", near));
}

std::string message_of(const CLI::ParseError& error) {
  std::string what = error.what();
  // The library calls a flag without a value "1 required N missing".
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr && what.rfind("--", 0) == 0)
    return what.substr(0, what.find(':')) + " needs a value";
  return what;
}

int parse_and_run(int argc, char** argv, Communicator& world) {
  CLI::App app(kDescription, "xmoe");
  app.footer(examples());
  app.set_version_flag("--version", "xmoe " XMOE_VERSION);
  app.require_subcommand(1);
  int exit_code = EXIT_SUCCESS;
  add_train_command(app, world);
  add_eval_command(app, world);
  add_generate_command(app, world);
  add_tokenizer_command(app, exit_code);
  add_data_command(app, exit_code);
  try {
    if (argc == 1) fail_everywhere("no command is given; see `xmoe --help`");
    expect_same_program(world);
    expect_same_command(world, {argv + 1, argv + argc});
    check_command(app, command_of(argc, argv));
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return world.rank() == 0 ? app.exit(request) : EXIT_SUCCESS;
  } catch (const CLI::ParseError& error) {
    fail_everywhere("{}; see `xmoe --help` and `xmoe COMMAND --help`", message_of(error));
  }
  return exit_code;
}

constexpr const char* kDefect = "this is a defect of xmoe, please report it with the command line: ";

// Runs the program on one of `world.size()` ranks. `abort` ends all ranks; it is called when the others
// cannot know that this one failed.
template <typename Abort>
int report_errors(int argc, char** argv, Communicator& world, Abort&& abort) {
  try {
    return parse_and_run(argc, argv, world);
  } catch (const Error& error) {
    if (error.scope() == ErrorScope::every_rank) {
      if (world.rank() == 0) fmt::print(stderr, "xmoe: error: {}\n", error.what());
      return EXIT_FAILURE;
    }
    log::error("{}", error.what());
  } catch (const std::bad_alloc&) {
    log::error("out of memory: use more ranks, a smaller --micro-batch-size or a smaller model");
  } catch (const std::filesystem::filesystem_error& error) {
    log::error("{}", xmoe::message_of(error));
  } catch (const std::exception& error) {
    log::error("{}{}", kDefect, error.what());
  }
  if (world.size() > 1) abort();
  return EXIT_FAILURE;
}

}  // namespace

int run_program(int argc, char** argv) {
  if (!runs_on_ranks(command_of(argc, argv))) {
    const std::unique_ptr<Communicator> world = make_self_communicator();
    return report_errors(argc, argv, *world, [] {});
  }
  try {
    CommunicationSession session(&argc, &argv);
    Communicator& world = session.world();
    log::set_rank(world.rank(), world.size());
    return report_errors(argc, argv, world, [&session] { session.abort(EXIT_FAILURE); });
  } catch (const std::exception& error) {  // the message layer did not start
    log::error("{}", error.what());
    return EXIT_FAILURE;
  }
}

}  // namespace xmoe
