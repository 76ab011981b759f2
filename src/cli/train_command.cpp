#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/config_report.h"
#include "cli/flag_options.h"
#include "train/flags.h"
#include "train/together.h"
#include "train/trainer.h"
#include "train/vocabulary.h"

namespace xmoe {

namespace {

struct TrainCommand {
  explicit TrainCommand(CLI::App& command) : options(command, train_flags(config)) {}

  // Reads the settings; returns the problems that keep a training from starting.
  std::vector<Problem> configure(int world_size) {
    options.apply();
    std::vector<Problem> problems = options.table().problems_with(validate(config, world_size));
    if (problems.empty() || only_prints()) {
      resolve_vocabulary(config);
      config.resolve(world_size);
    }
    return problems;
  }

  // What keeps a training from starting does not keep its settings from being printed.
  bool only_prints() const { return print_config && options.table().problems().empty(); }

  TrainConfig config;
  FlagOptions options;
  bool print_config = false;
};

}  // namespace

void add_train_command(CLI::App& app, Communicator& world) {
  CLI::App* command = app.add_subcommand("train", "Train a model, or go on with a training");
  const auto state = std::make_shared<TrainCommand>(*command);
  command->add_flag(
      "--print-config", state->print_config,
      "Print the resolved settings as TOML, with parameter counts and FLOPs per token, and exit");
  command->footer(
      "Examples:\n"
      "  xmoe train --config configs/models/demo.toml --data-path data/text --tokenizer data/tokenizer.json "
      "\\\n"
      "      --train-iters 1000 --lr 1e-3 --save checkpoints --load checkpoints\n"
      "  mpirun -n 8 xmoe train --config model.toml run.toml --expert-model-parallel-size 8\n"
      "  xmoe train --config configs/models/small.toml --print-config\n\n"
      "Names in a TOML file are those of the flags, without dashes in front: `lr = 1e-3`. Tables like "
      "[model] order the file for the\n"
      "reader and change nothing.\n\n"
      "Ctrl-C and SIGTERM save a checkpoint before the training ends. mpirun kills its ranks a second after "
      "it was told to end: where\n"
      "a step and a save take longer, give them time (in seconds; runs that fail take longer to end, too), "
      "or "
      "signal the ranks themselves:\n"
      "  OMPI_MCA_odls_base_sigkill_timeout=20 mpirun -n 8 xmoe train ...");
  command->callback([state, &world] {
    std::vector<Problem> problems;
    together(world, [&] {
      problems = state->configure(world.size());
      if (!state->only_prints()) fail_if_any(problems);
    });
    if (state->only_prints()) {
      if (world.rank() == 0) std::fputs(config_report(state->config, world.size(), problems).c_str(), stdout);
      return;
    }
    state->options.expect_same(world);
    run_training(state->config, world);
  });
}

}  // namespace xmoe
