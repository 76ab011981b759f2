#pragma once

namespace xmoe {

// The whole program: parses the arguments, runs the subcommand, reports errors. Returns the exit code.
int run_program(int argc, char** argv);

}  // namespace xmoe
