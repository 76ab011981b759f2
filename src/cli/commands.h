// The subcommands that run a model. Each adds itself to the program and does its work while the arguments are
// parsed.
#pragma once

#include <CLI/CLI.hpp>

#include "comm/communicator.h"

namespace xmoe {

// `world` is used only when the subcommand is the one that is called.
void add_train_command(CLI::App& app, Communicator& world);
void add_eval_command(CLI::App& app, Communicator& world);
void add_generate_command(CLI::App& app, Communicator& world);

}  // namespace xmoe
