#include <memory>

#include "cli/commands.h"
#include "cli/flag_options.h"
#include "cli/recipe.h"
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
  command->footer("Examples:\n  " + std::string(recipe::kEval) +
                  "\n"
                  "  mpirun -n 8 xmoe eval --load run --data-path held-out --tensor-model-parallel-size 2 "
                  "--expert-model-parallel-size 8");
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
