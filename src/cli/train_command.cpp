#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/config_report.h"
#include "cli/flag_options.h"
#include "comm/topology.h"
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
      // The size of the vocabulary may be known only now.
      if (problems.empty())
        problems = model_layout_problems(config.model, config.parallel.layout, world_size);
    }
    return problems;
  }

  // What keeps a training from starting does not keep its settings from being printed.
  bool only_prints() const { return print_config && options.table().problems().empty(); }

  // Where the ranks sit, of a layout that fits them; needs neither model nor data.
  void show_mesh(Communicator& world) const {
    fail_if_any(options.table().problems_with(layout_problems(config.parallel, world.size())));
    const Topology topology = detect_topology(world, static_cast<int>(config.parallel.ranks_per_node));
    const std::string text = describe(config.parallel.layout, topology);
    if (world.rank() == 0) std::fputs(text.c_str(), stdout);
  }

  TrainConfig config;
  FlagOptions options;
  bool print_config = false;
  bool print_mesh = false;
};

}  // namespace

void add_train_command(CLI::App& app, Communicator& world) {
  CLI::App* command = app.add_subcommand("train", "Train a model, or go on with a training");
  const auto state = std::make_shared<TrainCommand>(*command);
  command->add_flag(
      "--print-config", state->print_config,
      "Print the resolved settings as TOML, with parameter counts and FLOPs per token, and exit");
  command->add_flag(
      "--print-mesh", state->print_mesh,
      "Print the nodes, the ranks on them and the groups that each belongs to, and exit; needs no "
      "model and no data");
  command->footer(
      "Examples:\n"
      "  xmoe train --config configs/models/demo.toml --data-path data/text --tokenizer data/tokenizer.json "
      "\\\n"
      "      --train-iters 1000 --lr 1e-3 --save checkpoints --load checkpoints\n"
      "  mpirun -n 8 xmoe train --config model.toml run.toml --expert-model-parallel-size 8\n"
      "  mpirun -n 16 xmoe train --config model.toml run.toml --tensor-model-parallel-size 2 \\\n"
      "      --expert-model-parallel-size 16 --moe-dispatcher auto --zero-stage 1\n"
      "  mpirun -n 16 xmoe train --tensor-model-parallel-size 2 --expert-model-parallel-size 8 --print-mesh\n"
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
    if (state->print_mesh) {
      together(world, [&] { state->options.apply(); });
      state->options.expect_same(world);
      state->show_mesh(world);
      return;
    }
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
