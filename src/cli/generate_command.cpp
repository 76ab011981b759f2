#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/flag_options.h"
#include "train/flags.h"
#include "train/generate.h"
#include "train/together.h"

namespace xmoe {

namespace {

struct GenerateCommand {
  explicit GenerateCommand(CLI::App& command) : options(command, generate_flags(config)) {}

  GenerateConfig config;
  FlagOptions options;
};

}  // namespace

void add_generate_command(CLI::App& app, Communicator& world) {
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a checkpoint");
  const auto state = std::make_shared<GenerateCommand>(*command);
  command->footer(
      "Examples:\n"
      "  xmoe generate --load checkpoints --prompt 'In the beginning' --temperature 0.8 --top-p 0.95\n"
      "  echo 'In the beginning' | xmoe generate --load checkpoints --num-samples 3");
  command->callback([state, &world] {
    together(world, [&] {
      state->options.apply();
      fail_if_any(state->options.table().problems_with(validate(state->config, world.size())));
    });
    state->options.expect_same(world);
    run_generation(state->config, world, std::cin, std::cout);
  });
}

}  // namespace xmoe
