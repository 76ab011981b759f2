#include <memory>

#include "cli/commands.h"
#include "cli/flag_options.h"
#include "train/evaluate.h"
#include "train/flags.h"
#include "train/together.h"

namespace xmoe {

namespace {

struct EvalCommand {
  explicit EvalCommand(CLI::App& command) : options(command, eval_flags(config)) {}

  EvalConfig config;
  FlagOptions options;
};

}  // namespace

void add_eval_command(CLI::App& app, Communicator& world) {
  CLI::App* command =
      app.add_subcommand("eval", "Loss, perplexity and bits per byte of a checkpoint on a data set");
  const auto state = std::make_shared<EvalCommand>(*command);
  command->footer("Example:\n  xmoe eval --load checkpoints --data-path data/held-out");
  command->callback([state, &world] {
    together(world, [&] {
      state->options.apply();
      fail_if_any(state->options.table().problems_with(validate(state->config, world.size())));
    });
    state->options.expect_same(world);
    run_evaluation(state->config, world);
  });
}

}  // namespace xmoe
